"""Whether a run leaves padding out of its batches."""

from torch import nn

from phalanx.config import Config
from phalanx.nn.line import line_up
from phalanx.train.loader import Loader

MUCH = 0.1  # of a batch: on a GPU the kernel for lines is a third slower than the one for rows


def leave_out(model: nn.Module, config: Config, loader: Loader) -> bool:
    """Let a model do so where it pays; whether it does."""
    pays = _pays(config, loader)
    if pays:
        line_up(model)
    return pays


def _pays(config: Config, loader: Loader) -> bool:
    """Where a process has all layers and whole sequences, attention can be taken of a line, and the run's first batch
    has padding or ends documents inside a sequence. Dropout of attention goes by places in the row.
    """
    layout = config.layout
    possible = config.precision.dtype != "fp32" if config.train.device == "cuda" else config.train.compile == "off"
    if not possible or max(layout.tp, layout.cp, layout.pp) > 1 or config.model.attention_dropout:
        return False
    document = loader.make(0).document
    if document is None:
        return False
    return bool((document > 0).any()) or (document < 0).float().mean().item() > MUCH
