"""The place of a model's blocks: whether a layout fits, and which stage holds which. No torch, so planning is quick."""

from functools import cache
from heapq import heapify, heapreplace

from phalanx.config import LayoutConfig
from phalanx.spec.costs import decoders, kinds, products
from phalanx.spec.leaves import Dim
from phalanx.spec.model import Spec
from phalanx.spec.partition import Obstacle, obstacle, uneven

KEYS = {"heads": "heads", "mlp": "ffn"}  # of [model], by the axis that they are the size of


def tensor_misfit(spec: Spec, tp: int, pad_vocab_to: int) -> str:
    """Return why `tp` ranks cannot share a model, with the numbers that would do; "" if they can."""
    if (blocking := obstacle(spec, tp)) is None:
        return ""
    rows = _padding(blocking.dim, tp, pad_vocab_to) if blocking.dim.axis == "vocab" else 0
    most = max(block.attention.heads for block in kinds(spec))
    fits = [n for n in range(1, most + 1) if not obstacle(spec, n)]
    would = f"model.pad_vocab_to={rows}, or layout.tp=" if rows else "one of "
    return f"{_reason(blocking, tp, pad_vocab_to)}; use {would}{', '.join(map(str, fits))}"


def _reason(blocking: Obstacle, tp: int, pad_vocab_to: int) -> str:
    """Return why tp ranks cannot share a model, by the keys of its configuration where these are known."""
    dim, grouped = blocking.dim, any(part.pieces > 1 for part in blocking.dim.fused)
    if grouped and tp % dim.units == 0:  # copies of key heads would do, but each of those has so many queries
        return f"layout.tp={tp} does not divide model.heads={blocking.pieces}"
    if grouped:
        keys = f"the {blocking.pieces} key heads of {blocking.parameter}"
        return f"layout.tp={tp} neither divides {keys} nor is a multiple of them"
    if dim.axis != "vocab":
        key = f"model.{KEYS[dim.axis]}=" if dim.axis in KEYS else f"{dim.axis} of {blocking.parameter}: "
        return f"layout.tp={tp} does not divide {key}{blocking.pieces}"
    padded = f"padded to {dim.padded} by model.pad_vocab_to={pad_vocab_to}"
    if blocking.pieces:
        return f"layout.tp={tp} does not divide the vocabulary, {padded}"
    return f"layout.tp={tp} leaves a rank without words: model.vocab={dim.size} is {padded}"


def _padding(dim: Dim, tp: int, now: int) -> int:
    """Return the model.pad_vocab_to nearest to what it is `now` with which tp ranks can share the vocabulary; 0 if
    there is none.
    """
    near = {max(1, round(now / 2**halved / tp)) * tp for halved in range(25)}
    fits = [rows for rows in near if uneven(dim._replace(padded=-(-dim.size // rows) * rows), tp) is None]
    return min(fits, key=lambda rows: abs(rows - now), default=0)


@cache
def assign_layers(spec: Spec, stages: int) -> tuple[int, ...]:
    """Return how many blocks each stage has, so that the slowest is as fast as can be.

    In units of a block, or of the mean of different ones: the head costs what it multiplies, vocabulary × hidden; the
    embedding what it moves, some 36 bytes a token and hidden unit there and back, at 50 operations in a byte's time, of
    which forward and backward have 6 for each weight that multiplies.
    """
    multiplied = sum(
        count * product.k * product.n for block, count in kinds(spec).items() for product in products(block, 1)
    )
    cost, layers = [0.0] * stages, len(spec.blocks)
    cost[0] += 36 * 50 * spec.hidden * layers / (6 * multiplied)
    cost[-1] += sum(matrix.inputs.size * matrix.outputs.size for matrix in decoders(spec)) * layers / multiplied

    blocks = [1] * stages
    slowness = [(each + 1, stage) for stage, each in enumerate(cost)]
    heapify(slowness)
    for _ in range(layers - stages):
        stage = slowness[0][1]
        blocks[stage] += 1
        heapreplace(slowness, (cost[stage] + blocks[stage], stage))
    return tuple(blocks)


def stage_numbers(layout: LayoutConfig, rank: int) -> list[int]:
    """Return the stages of a rank of the pp axis: one, several in turn (interleaved), or two mirrored ones (zbv)."""
    if layout.schedule == "zbv":
        return [rank, 2 * layout.pp - 1 - rank]
    return [rank + turn * layout.pp for turn in range(layout.chunks)]


def rank_of_stage(number: int, layout: LayoutConfig) -> int:
    """Return the rank of the pp axis that holds a stage."""
    if layout.schedule == "zbv":
        return number if number < layout.pp else 2 * layout.pp - 1 - number
    return number % layout.pp


def stage_count(layout: LayoutConfig) -> int:
    """Return how many stages there are in all."""
    return layout.pp * (2 if layout.schedule == "zbv" else layout.chunks)
