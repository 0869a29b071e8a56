"""Whether a run leaves padding out of its batches."""

import torch
from torch import nn

from phalanx.config import Config
from phalanx.models.family import spec_of
from phalanx.nn.packed import enable_packing, has_varlen
from phalanx.spec.costs import kinds
from phalanx.train.loader import Loader

WORTH_IT = 0.1  # of a batch being padding: on a GPU the kernel for packed rows is a third slower than the one for rows
ROWS = 64  # of a batch that are looked at


def leave_out(model: nn.Module, config: Config, loader: Loader) -> bool:
    """Let a model do so where it pays; whether it does."""
    pays = _pays(config, loader)
    if pays:
        enable_packing(model, kernel=config.train.device == "cuda")
    return pays


def _pays(config: Config, loader: Loader) -> bool:
    """Where a process has all layers and whole sequences, attention can be taken of a line, and the run's first batch
    has padding or ends documents inside a sequence. Dropout of attention goes by places in the row.
    """
    layout, attentions = config.layout, [block.attention for block in kinds(spec_of(config.model))]
    possible = config.train.compile == "off"
    if config.train.device == "cuda":
        device = torch.device("cuda")
        possible = config.precision.dtype != "fp32" and all(has_varlen(device, each.width) for each in attentions)
    if not possible or max(layout.tp, layout.cp, layout.pp) > 1 or any(each.drop for each in attentions):
        return False
    document = loader.make(0, ROWS).document
    if document is None:
        return False
    return bool((document > 0).any()) or (document < 0).float().mean().item() > WORTH_IT
