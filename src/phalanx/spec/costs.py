"""The costs of a model: FLOPs, bytes and messages, as sums over the parts of its description.

A product of an [m, k] with a [k, n] matrix counts 2 m k n operations, and backward twice as many as forward. Blocks
that are equal are summed once: a model of a hundred blocks has one kind of them, or a few.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from phalanx.spec.leaves import Matrix, Norm
from phalanx.spec.model import Attention, Block, Spec
from phalanx.spec.partition import ONE, Ranks, local, shape, split
from phalanx.spec.parts import Layer, Part, Saved

TRAINING = 3  # FLOPs of forward and backward, by those of forward
WIDE = 4  # bytes of an element of the residual stream, and of whatever else norms read


class Product(NamedTuple):
    """A matrix product of `rows` rows with a [n, k] matrix, as one rank computes it in the forward pass."""

    name: str
    rows: float
    k: int
    n: int

    @property
    def flops(self) -> float:
        """Floating-point operations of the product: a whole number, if `rows` is one."""
        return 2 * self.rows * self.k * self.n


class Collective(NamedTuple):
    """A collective along the tensor-parallel axis, of so many elements of each token."""

    kind: str  # gather, copy, scatter, reduce, total
    elements: int


@cache
def kinds(spec: Spec) -> Mapping[Block, int]:
    """Return the blocks that differ, in order, and how many there are of each."""
    return counted(spec.blocks)


def counted(blocks: Sequence[Block]) -> dict[Block, int]:
    """Return the blocks that differ, in order, and how many there are of each."""
    copies, counts = Counter(map(id, blocks)), Counter[Block]()
    for block in {id(block): block for block in blocks}.values():
        counts[block] += copies[id(block)]  # most are one object, and to compare ids is quicker than values
    return counts


def decoders(spec: Spec) -> Iterator[Matrix]:
    """Yield the products of its heads with the vocabulary."""
    return (matrix for head in spec.heads for _, matrix in head.matrices() if matrix.outputs.axis == "vocab")


def products(
    part: Part, tokens: float, labels: float | None = None, sequences: float = 0, ranks: Ranks = ONE
) -> Iterator[Product]:
    """Yield the matrix products of a rank in the forward pass of `part`, over so many tokens, labels (as many as tokens
    by default) and sequences. Attention's scores are not among them.
    """
    rows = {"token": tokens, "label": tokens if labels is None else labels, "sequence": sequences}
    for name, per, k, n in _matrices(part, ranks):
        yield Product(name, rows[per], k, n)


@cache
def _matrices(part: Part, ranks: Ranks) -> tuple[tuple[str, str, int, int], ...]:
    """Return of each matrix its name, what it is applied to, and the two sizes of a rank's part."""
    return tuple(
        (name, matrix.per, local(matrix.inputs, ranks), local(matrix.outputs, ranks))
        for name, matrix in part.matrices()
    )


def keys(attention: Attention, sequence: int, masked: bool) -> float:
    """Return how many keys a query meets: as many as a sequence or a window has, or, where `masked`, the mean of those
    that it is let see.
    """
    reach = min(attention.window or sequence, sequence)
    if not masked:
        return min(sequence, reach if attention.causal else 2 * reach - 1)
    before = reach * (sequence - (reach - 1) / 2) / sequence  # the mean, with itself
    return before if attention.causal else 2 * before - 1


def scores(spec: Spec, sequence: int, masked: bool = False) -> float:
    """Return the forward FLOPs of attention's scores and sums for one token of so long a sequence. `masked` leaves out
    the keys that no query sees.
    """
    total: float = 0
    for block, count in kinds(spec).items():
        attention = block.attention
        total += 2 * count * attention.costs().scored * keys(attention, sequence, masked)
    return total


def flops_per_token(spec: Spec, sequence: int, masked: bool = False) -> float:
    """Return the FLOPs of forward and backward for one token, as throughputs are published (Narayanan et al., arXiv
    2104.04473, appendix): the blocks' products, the vocabulary at every position, and attention's scores, counted whole
    for causal attention unless `masked`. Transforms and poolers of heads are left out there too.
    """
    blocks = sum(count * each.flops for block, count in kinds(spec).items() for each in products(block, 1))
    words = sum(2 * matrix.inputs.size * matrix.outputs.size for matrix in decoders(spec))
    return TRAINING * (blocks + words + scores(spec, sequence, masked))


@cache
def saved(part: Block | Layer, ranks: Ranks = ONE, narrow: int = 2) -> tuple[float, float]:
    """Return the bytes that a layer or a block keeps for backward: those of each token of a micro-batch, and those of
    the weights as products take them, cast to `narrow` bytes an element (none where that is fp32).
    """
    kept = list[Saved]()
    if isinstance(part, Layer):
        kept += part.costs().saved
    else:
        kept += [Saved(leaf.dim.size, "own", wide=True) for _, leaf in part.parts() if isinstance(leaf, Norm)]
        kept += [*part.attention.costs().saved, *part.feed_forward.costs().saved]
    ways = {"split": ranks.tp, "own": ranks.tp if ranks.sequence else 1, "all": 1}
    tokens = sum(each.elements * (WIDE if each.wide else narrow) / ways[each.held] for each in kept)

    matrices = [parameter for parameter in part.parameters() if parameter.role == "matrix"]
    cast = narrow * sum(math.prod(shape(parameter, ranks)) for parameter in matrices) if narrow < WIDE else 0
    return tokens, cast


@cache
def norms_of(block: Block) -> tuple[int, int]:
    """Return how many norms of the residual stream and of what is added to it a block has, and how many norms over a
    dimension that tensor parallelism splits.
    """
    inside = [leaf for _, leaf in block.leaves() if isinstance(leaf, Norm)]
    return sum(isinstance(part, Norm) for _, part in block.parts()), sum(split(leaf.dim) for leaf in inside)


def collectives(block: Block, ranks: Ranks) -> Iterator[Collective]:
    """Yield the collectives of a block's forward pass, in order. Backward has the conjugate of each: a reduce-scatter
    for a gather, an all-reduce for a copy, and the other way round. Norms over all heads sum squares over the ranks in
    both directions.
    """
    if ranks.tp == 1:
        return
    for layer in (block.attention, block.feed_forward):
        yield Collective("gather" if ranks.sequence else "copy", layer.costs().enters)
        if layer is block.attention:
            yield from [Collective("total", 1)] * norms_of(block)[1]
        yield Collective("scatter" if ranks.sequence else "reduce", block.attention.hidden)
