"""The leaves of a model's description: matrices, tables and norms, which own its parameters.

Every dimension of a parameter lies along a logical axis ("embed", "heads", "mlp", "vocab", …); partition.py says which
of them are split over ranks. Sizes are numbers of elements.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

# What a parameter is, by which optimizers go rather than by its dimensions or its name: the matrix of a layer or of a
# head, a table of embeddings, a norm's weight or bias, a matrix's bias.
Role = Literal["matrix", "head", "table", "norm", "bias"]
Per = Literal["token", "label", "sequence"]  # of a micro-batch, what a matrix is applied to: each of these
DECAYING = frozenset[Role]({"matrix", "head", "table"})  # what weight decay is applied to, as is the custom


class Fused(NamedTuple):
    """One of several parts that follow one another in a dimension: q, k and v of a projection, or gate and up.

    A dimension may consist of several equal units, each with all of the parts. `size` is the part's size in one unit.
    When there are more ranks than units, the ranks of a unit divide the part between them, in `pieces` that cannot be
    cut (0: single elements), or each of them holds a copy of it (`shared`).
    """

    name: str
    size: int
    pieces: int = 0
    shared: bool = False


class Dim(NamedTuple):
    """A dimension of a parameter.

    `units` is the number of equal pieces that no split may cut, such as a key head with its queries; 0 means single
    elements. `padded` is the size with the padding rows of a vocabulary, which is what a split divides; 0 means that
    there are none. `fused` says what a unit consists of, in order.
    """

    axis: str
    size: int
    units: int = 0
    padded: int = 0
    fused: tuple[Fused, ...] = ()

    @property
    def stored(self) -> int:
        """The dimension's size with padding."""
        return self.padded or self.size


class Parameter(NamedTuple):
    """A parameter under its name: within its leaf ("weight") or within the model (the path of the leaf before it)."""

    name: str
    role: Role
    dims: tuple[Dim, ...]

    @property
    def elements(self) -> int:
        """The number of its elements, without padding."""
        return math.prod(dim.size for dim in self.dims)

    @property
    def shape(self) -> tuple[int, ...]:
        """The parameter's shape as it is stored. A bias has no padding, though the rows of its matrix may."""
        return tuple(dim.size if self.role == "bias" else dim.stored for dim in self.dims)


@dataclass(frozen=True)
class Matrix:
    """A product y = x Wᵀ + b, with W [outputs, inputs].

    Products that share their input are one matrix whose outputs are `fused`, so that the input is gathered, cast and
    kept for backward once. A product with the embedding's own weight is `tied` to it by that parameter's name and owns
    no weight.
    """

    inputs: Dim
    outputs: Dim
    bias: bool = True
    std: float = 0.02  # standard deviation of the initial weights
    per: Per = "token"
    tied: str = ""

    def parameters(self) -> Iterator[Parameter]:
        """Yield its weight [outputs, inputs] and its bias [outputs], those of them that it owns."""
        if not self.tied:
            yield Parameter("weight", "matrix", (self.outputs, self.inputs))
        if self.bias:
            yield Parameter("bias", "bias", (self.outputs,))


@dataclass(frozen=True)
class Table:
    """An embedding: rows as wide as the residual stream."""

    rows: Dim
    hidden: Dim
    std: float = 0.02

    def parameters(self) -> Iterator[Parameter]:
        """Yield its weight [rows, hidden]."""
        yield Parameter("weight", "table", (self.rows, self.hidden))


@dataclass(frozen=True)
class Norm:
    """A layer norm, or a root-mean-square norm (arXiv 1910.07467), which has no bias; in fp32, over one dimension.

    Where that dimension is split, ranks add up their squares. With `unit_offset` what an rms norm gives is multiplied
    by 1 + weight, which begins at 0 (Gemma).
    """

    dim: Dim
    eps: float
    kind: Literal["layer", "rms"] = "layer"
    bias: bool = True
    unit_offset: bool = False

    @property
    def biased(self) -> bool:
        """Whether it has a bias."""
        return self.bias and self.kind == "layer"

    def parameters(self) -> Iterator[Parameter]:
        """Yield its weight and its bias, both [dim]."""
        yield Parameter("weight", "norm", (self.dim,))
        if self.biased:
            yield Parameter("bias", "norm", (self.dim,))


Leaf = Matrix | Table | Norm
