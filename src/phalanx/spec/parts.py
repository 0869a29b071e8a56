"""The nodes of a model's description, and what one of its layers costs a token.

A part is known under the attribute that holds its module, so **the path of a leaf is the name of its parameters**.
"""

from collections.abc import Iterator
from dataclasses import fields
from typing import Literal, NamedTuple

from phalanx.spec.leaves import Leaf, Matrix, Parameter


class Part:
    """A node of the tree. Its children are the fields that are parts or leaves, unless it says otherwise."""

    def parts(self) -> "Iterator[tuple[str, Part | Leaf]]":
        """Yield its children by name, in the order of the module's attributes."""
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Part | Leaf):
                yield field.name, value

    def leaves(self, path: str = "") -> Iterator[tuple[str, Leaf]]:
        """Yield all leaves below it by their paths, which begin with `path`."""
        for name, part in self.parts():
            if isinstance(part, Part):
                yield from part.leaves(f"{path}{name}.")
            else:
                yield path + name, part

    def matrices(self) -> Iterator[tuple[str, Matrix]]:
        """Yield the leaves that multiply, by path."""
        return ((path, leaf) for path, leaf in self.leaves() if isinstance(leaf, Matrix))

    def parameters(self) -> Iterator[Parameter]:
        """Yield all parameters under their names in the model, in the order of the modules."""
        for path, leaf in self.leaves():
            for parameter in leaf.parameters():
                yield parameter._replace(name=f"{path}.{parameter.name}")


class Saved(NamedTuple):
    """Elements of each token that a layer keeps for backward.

    They are split over the tensor-parallel ranks, or held by each rank for its own positions of the residual stream
    (all of them without sequence parallelism), or held whole by all.
    """

    elements: int
    held: Literal["split", "own", "all"]
    wide: bool = False  # in fp32; else in the precision of the products


class Costs(NamedTuple):
    """The costs of a layer for each token beside its matrix products, in elements, before anything is split."""

    enters: int  # width of the input that every tensor-parallel rank needs: gathered, or copied
    saved: tuple[Saved, ...]
    scored: int = 0  # multiply-adds of a query with one key and its value
    cached: int = 0  # keys and values that generation keeps


class Layer(Part):
    """A layer: what is computed between the residual stream and a residual sum."""

    def costs(self) -> Costs:
        """Return what it costs each token."""
        raise NotImplementedError
