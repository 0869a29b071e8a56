"""What a layout allows a model and who has which part of it, in numbers alone: no torch, so that planning is quick."""

from functools import cache
from heapq import heapify, heapreplace

from phalanx.config import LayoutConfig, ModelConfig
from phalanx.errors import InputError


def check(model: ModelConfig, tp: int) -> None:
    """InputError for a model that tp ranks cannot share, with the numbers that would do."""
    blocks = _why_not_blocks(model, tp)
    if why := blocks or _why_not_words(model, tp):
        rows = 0 if blocks else _padding(model, tp)
        fits = [n for n in range(1, model.heads + 1) if not (_why_not_blocks(model, n) or _why_not_words(model, n))]
        would = f"model.pad_vocab_to={rows}, or layout.tp=" if rows else "one of "
        raise InputError(f"{why}; use {would}{', '.join(map(str, fits))}")


def _why_not_blocks(model: ModelConfig, tp: int) -> str:
    """Why so many ranks cannot share a model's blocks; nothing if they can."""
    for key, size in (("heads", model.heads), ("ffn", model.ffn or 4 * model.hidden)):
        if size % tp:
            return f"layout.tp={tp} does not divide model.{key}={size}"
    return ""


def _why_not_words(model: ModelConfig, tp: int) -> str:
    """Why so many ranks cannot share its vocabulary; nothing if they can."""
    rows, padded = model.padded_vocab, f"to {model.padded_vocab} by model.pad_vocab_to={model.pad_vocab_to}"
    if rows % tp:
        return f"layout.tp={tp} does not divide the vocabulary, padded {padded}"
    if tp > 1 and model.vocab <= rows - rows // tp:
        return f"layout.tp={tp} leaves a rank without words: model.vocab={model.vocab} is padded {padded}"
    return ""


def _padding(model: ModelConfig, tp: int) -> int:
    """The model.pad_vocab_to nearest to what it is with which tp ranks can share the vocabulary; 0 if there is none."""
    near = {max(1, round(model.pad_vocab_to / 2**halved / tp)) * tp for halved in range(25)}
    fits = [rows for rows in near if not _why_not_words(model.model_copy(update={"pad_vocab_to": rows}), tp)]
    return min(fits, key=lambda rows: abs(rows - model.pad_vocab_to), default=0)


def spread(config: ModelConfig, stages: int) -> list[int]:
    """Blocks of each stage, so that the slowest is as fast as can be.

    In units of a block, which multiplies 12 hidden² a token: the head costs what it multiplies, vocab × hidden; the
    embedding what it moves, some 36 bytes a token and hidden unit there and back, at 50 operations in a byte's time.
    """
    return list(_spread(config.layers, config.hidden, config.vocab, stages))


@cache
def _spread(layers: int, hidden: int, vocab: int, stages: int) -> tuple[int, ...]:
    cost = [0.0] * stages
    cost[0] += 36 * 50 / (6 * 12 * hidden)
    cost[-1] += vocab / (12 * hidden)
    blocks = [1] * stages
    slowness = [(each + 1, stage) for stage, each in enumerate(cost)]
    heapify(slowness)
    for _ in range(layers - stages):
        stage = slowness[0][1]
        blocks[stage] += 1
        heapreplace(slowness, (cost[stage] + blocks[stage], stage))
    return tuple(blocks)


def numbers(layout: LayoutConfig, rank: int) -> list[int]:
    """The stages of a rank of the pp axis: one, or several in turn (interleaved), or two mirrored ones (zbv)."""
    if layout.schedule == "zbv":
        return [rank, 2 * layout.pp - 1 - rank]
    return [rank + turn * layout.pp for turn in range(layout.chunks)]


def rank_of(number: int, layout: LayoutConfig) -> int:
    """The rank of the pp axis that holds a stage."""
    if layout.schedule == "zbv":
        return number if number < layout.pp else 2 * layout.pp - 1 - number
    return number % layout.pp


def stages_of(layout: LayoutConfig) -> int:
    """How many stages there are in all."""
    return layout.pp * (2 if layout.schedule == "zbv" else layout.chunks)
