"""The part of a model that each rank holds, in numbers alone: tensor parallelism and pipeline stages.

`SPLIT` is the one table of a layout: the logical axes that tensor parallelism splits. What a rank holds of a parameter
is a list of boxes of the whole. A stage of a pipeline is a description again, so that whatever walks a model walks a
stage.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from typing import NamedTuple

from phalanx.spec.leaves import Dim, Parameter
from phalanx.spec.model import Block, Embeddings, Spec

SPLIT = frozenset({"heads", "mlp", "vocab"})
AXES = SPLIT | {"embed", "head", "position", "segment", "transform", "pooled", "classes"}  # all that there are


class Ranks(NamedTuple):
    """The tensor-parallel ranks over which split axes are divided, and which of them is meant."""

    tp: int = 1
    sequence: bool = False  # whether they share the residual stream too, each its positions
    rank: int = 0


ONE = Ranks()


class Box(NamedTuple):
    """A box of what a rank holds of a parameter.

    It begins at `local_offset` in what the rank holds, at `global_offset` in the whole. `alike` neighbouring
    tensor-parallel ranks hold the same box; where its gradient is `partial` these have different terms of it, which are
    to be added up.
    """

    shape: tuple[int, ...]
    local_offset: tuple[int, ...]
    global_offset: tuple[int, ...]
    alike: int = 1
    partial: bool = False

    @property
    def local_slices(self) -> tuple[slice, ...]:
        """The index of the box in what the rank holds."""
        return _slices(self.local_offset, self.shape)

    @property
    def global_slices(self) -> tuple[slice, ...]:
        """The index of the box in the whole."""
        return _slices(self.global_offset, self.shape)


def whole(shape: tuple[int, ...]) -> Box:
    """Return the one box of a tensor of which a rank holds all."""
    return Box(shape, (0,) * len(shape), (0,) * len(shape))


def _slices(begin: tuple[int, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(start, start + size) for start, size in zip(begin, shape, strict=True))


class Run(NamedTuple):
    """A box in one dimension, with the box's offsets in the rank's part and in the whole."""

    length: int
    local_offset: int
    global_offset: int
    alike: int = 1


def runs(dim: Dim, ranks: Ranks, padding: bool = False) -> Iterator[Run]:
    """Yield what a rank has of a dimension, with the `padding` of a vocabulary or without. Ranks divide whole units."""
    ways, rank = (ranks.tp, ranks.rank) if split(dim) else (1, 0)
    if dim.fused and dim.units % ways:
        yield from _runs_of_a_unit(dim, ways, rank)
        return
    start, end = dim.stored // ways * rank, dim.stored if padding else dim.size
    yield Run(max(0, min(dim.stored // ways, end - start)), 0, start)


def _runs_of_a_unit(dim: Dim, ways: int, rank: int) -> Iterator[Run]:
    """Yield what a rank has of a dimension with fewer units than ranks: those of a unit divide each of its fused parts,
    or share it.
    """
    ways //= dim.units
    local, start = 0, dim.size // dim.units * (rank // ways)
    for part in dim.fused:
        length = part.size if part.shared else part.size // ways
        begin = 0 if part.shared else length * (rank % ways)
        yield Run(length, local, start + begin, ways if part.shared else 1)
        local, start = local + length, start + part.size


def local(dim: Dim, ranks: Ranks, padding: bool = False) -> int:
    """Return the size of what a rank has of a dimension."""
    return sum(run.length for run in runs(dim, ranks, padding))


def shape(parameter: Parameter, ranks: Ranks) -> tuple[int, ...]:
    """Return the shape of what a rank holds of a parameter. A bias has no padding rows."""
    return tuple(local(dim, ranks, padding=parameter.role != "bias") for dim in parameter.dims)


def place(parameter: Parameter, ranks: Ranks) -> Iterator[Box]:
    """Yield the boxes of what a rank holds of a parameter, in the order in which they lie there."""
    divided = any(map(split, parameter.dims))
    for box in product(*(runs(dim, ranks, padding=parameter.role != "bias") for dim in parameter.dims)):
        alike = max(run.alike for run in box) if divided else ranks.tp
        yield Box(
            shape=tuple(run.length for run in box),
            local_offset=tuple(run.local_offset for run in box),
            global_offset=tuple(run.global_offset for run in box),
            alike=alike,
            partial=alike > 1 if divided else partial(parameter, ranks),
        )


def rows(boxes: Iterable[Box], first: int, count: int) -> Iterator[Box]:
    """Yield what lies of the boxes in `count` rows of what the rank holds, from row `first` on, as a sharded optimizer
    leaves it to one of its shards. Local offsets count from that row.
    """
    for box in boxes:
        begin = box.local_offset[0]
        low, high = max(begin, first), min(begin + box.shape[0], first + count)
        if low < high:
            yield box._replace(
                shape=(high - low, *box.shape[1:]),
                local_offset=(low - first, *box.local_offset[1:]),
                global_offset=(box.global_offset[0] + low - begin, *box.global_offset[1:]),
            )


def split(dim: Dim) -> bool:
    """Return whether tensor parallelism splits a dimension."""
    return dim.axis in SPLIT


def partial(parameter: Parameter, ranks: Ranks) -> bool:
    """Return whether a rank's gradient of a parameter that all tensor-parallel ranks hold lacks the others' terms.

    With sequence parallelism each rank applies what is in the transformer to its own positions alone; heads see all.
    What is applied to every head of attention, each rank applies to its own heads.
    """
    if ranks.tp == 1 or any(map(split, parameter.dims)):
        return False
    each_head = any(dim.axis == "head" for dim in parameter.dims)
    return each_head or (ranks.sequence and parameter.name.startswith("transformer."))


def shared(spec: Spec, tp: int) -> list[int]:
    """Return by how many neighbouring ranks, fewer than all, copies of key heads are held: sizes in ascending order."""
    boxes = (box for parameter in spec.parameters() for box in place(parameter, Ranks(tp)))
    return sorted({box.alike for box in boxes} - {1, tp})


class Obstacle(NamedTuple):
    """A dimension that tensor-parallel ranks cannot share: they do not divide its `pieces`, or, where that is 0, one of
    them would have padding alone.
    """

    parameter: str
    dim: Dim
    pieces: int


@cache
def obstacle(spec: Spec, tp: int) -> Obstacle | None:
    """Return why so many tensor-parallel ranks cannot share a model, rather of its blocks than of its vocabulary."""
    obstacles = list[Obstacle]()
    for parameter in _different(spec):
        for dim in filter(split, parameter.dims):
            if (pieces := uneven(dim, tp)) is not None:
                obstacles.append(Obstacle(parameter.name, dim, pieces))
    return min(obstacles, key=lambda each: each.dim.axis == "vocab", default=None)


def _different(spec: Spec) -> Iterator[Parameter]:
    """Yield the parameters of a model, of equal blocks those of the first."""
    seen = set[Block]()
    for path, part in spec.parts():
        if isinstance(part, Block):
            if part in seen:
                continue
            seen.add(part)
        for parameter in part.parameters():
            yield parameter._replace(name=f"{path}.{parameter.name}")


def uneven(dim: Dim, ways: int) -> int | None:
    """Return the number of pieces of a dimension that so many ranks cannot share; 0 where one of them would have
    padding alone; None where they can.
    """
    pieces = dim.units or dim.stored
    if pieces % ways == 0:
        return 0 if dim.padded and not local(dim, Ranks(ways, rank=ways - 1)) else None
    if not dim.fused or ways % pieces:
        return pieces
    each = (part.pieces or part.size for part in dim.fused if not part.shared)
    return next((pieces * count for count in each if count % (ways // pieces)), None)


@cache
def widened(block: Block, tp: int) -> Block:
    """Return the block that more ranks than key heads compute: as if each rank had a key head of its own. What they
    hold are copies, by `place`.
    """
    attention = block.attention
    if tp > attention.kv_heads and tp % attention.kv_heads == 0 and attention.heads % tp == 0:
        return replace(block, attention=replace(attention, kv_heads=tp))
    return block


@cache
def stage(spec: Spec, number: int, spread: tuple[int, ...]) -> Spec:
    """Return stage `number` of a pipeline whose stages have so many blocks each. A head that is tied to the embedding
    brings a copy of it to the last stage.
    """
    first, last = sum(spread[:number]), number == len(spread) - 1
    embeddings = spec.embeddings
    if number:
        assert spec.embeddings is not None
        embeddings = Embeddings(spec.embeddings.token) if last and spec.tied else None
    return replace(
        spec,
        embeddings=embeddings,
        blocks=spec.blocks[first : first + spread[number]],
        norm=spec.norm if last else None,
        heads=spec.heads if last else (),
        first=spec.first + first,
    )
