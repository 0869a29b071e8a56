"""Links from a model's parameters to tensors of other programs' files: one table of names, read in both directions.

A link says that a view of a parameter and a view of a foreign tensor, of one shape, hold the same numbers. Import
copies one way along the links, export the other, so no inverse is ever written. Views are data, so that a file is
compared with a model by names and shapes alone, before a number of it is read. What the description of a model knows
already stands in no table: padding rows of the vocabulary, tied heads, in which order q, k and v lie here.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeVar, cast

from phalanx.spec.leaves import Dim, Leaf, Matrix, Parameter
from phalanx.spec.model import WORDS, Spec
from phalanx.spec.partition import ONE, Ranks, runs, split

T = TypeVar("T")

Order = Literal["stacked", "turns", "same"]
View = tuple[tuple[Any, ...], ...]  # names of methods of a tensor with their arguments, one after the other


class Foreign(NamedTuple):
    """A foreign name of a module or of one parameter, and how its tensors differ from those here.

    `transposed` matrices are stored [inputs, outputs]. Parts that are fused here, such as q, k and v, are foreign
    tensors of their own where the name has braces ("self_attn.{q,k,v}_proj"). Otherwise they lie in one tensor: each
    part whole, one after the other ("stacked"); row by row in turns within each unit ("turns"); or as they lie here
    ("same").
    """

    name: str
    transposed: bool = False
    order: Order = "stacked"


Table = Mapping[str, str | Foreign]  # by the path here of a module, or of one of its parameters


class Names(NamedTuple):
    """The foreign names of a model: of its blocks' modules (after `block`, which has {} for the number), of its heads'
    by the heads' losses, and of all else (`once`).

    Files of the stack without its heads leave `stem` out of names. `second` has second names, under which a file may
    hold a tensor again, with the first ones. What ends in one of `buffers` holds no weights.
    """

    block: str
    blocks: Table
    once: Table
    heads: Mapping[str, Table]
    stem: str = ""
    second: Mapping[str, str] = {}
    buffers: tuple[str, ...] = ()


class Side(NamedTuple):
    """A view of a tensor: the tensor's name, its whole shape, and the steps to the view."""

    name: str
    shape: tuple[int, ...]
    view: View = ()


class Link(NamedTuple):
    """A view of a parameter and a view of a foreign tensor that hold the same numbers in the same shape."""

    ours: Side
    theirs: Side


def links(spec: Spec, names: Names, ranks: Ranks = ONE, rows: int = 0) -> Iterator[Link]:
    """Yield the links of all parameters, in the model's order; those of one parameter follow one another.

    The foreign tensors are those of one tensor-parallel rank of `ranks`, which must divide the units of what is split.
    `rows` is how many rows the vocabulary has there over all ranks, padding included, in matrices and in biases; 0
    means that it is stored without padding. KeyError for a module of which the table has no name.
    """
    for place in _places(spec, names):
        for parameter in place.leaf.parameters():
            whole = parameter._replace(name=f"{place.path}.{parameter.name}")
            yield from _links(whole, place.entry(parameter.name), ranks, rows)


def second_names(spec: Spec, names: Names) -> dict[str, str]:
    """Return second names with the first ones: those of the table, and of tied heads, which are the embedding again."""
    words = next(link.theirs.name for link in links(spec, names) if link.ours.name == WORDS)
    tied = {
        place.entry("weight").name: words
        for place in _places_of_heads(spec, names)
        if isinstance(place.leaf, Matrix) and place.leaf.tied and place.key in place.table
    }
    return tied | dict(names.second)


def bare(names: Names) -> Names:
    """Return the names that files of the stack without its heads have."""

    def strip(table: Table) -> Table:
        return {ours: _foreign(entry)._replace(name=cut(_foreign(entry).name)) for ours, entry in table.items()}

    def cut(name: str) -> str:
        return name.removeprefix(names.stem)

    return names._replace(
        block=cut(names.block),
        once=strip(names.once),
        heads={loss: strip(table) for loss, table in names.heads.items()},
        second={cut(again): cut(first) for again, first in names.second.items()},
    )


def unnamed(spec: Spec, names: Names) -> str:
    """Return the first parameter of which the table has no name, or ""."""
    for place in _places(spec, names):
        for parameter in place.leaf.parameters():
            if place.key not in place.table and f"{place.key}.{parameter.name}" not in place.table:
                return f"{place.path}.{parameter.name}"
    return ""


def view(tensor: T, steps: View) -> T:
    """Return the view of a tensor to which the steps lead."""
    result: Any = tensor
    for method, *arguments in steps:
        result = getattr(result, method)(*arguments)
    return cast(T, result)


class _Place(NamedTuple):
    """A leaf by its path in the model, the table that names it and under which key, and what precedes its name."""

    path: str
    leaf: Leaf
    table: Table
    key: str
    prefix: str = ""

    def entry(self, parameter: str) -> Foreign:
        """Return the entry of one of its parameters, with the whole of its name."""
        single = self.table.get(f"{self.key}.{parameter}")
        entry = _foreign(self.table[self.key] if single is None else single)
        return entry._replace(name=self.prefix + entry.name + (f".{parameter}" if single is None else ""))


def _foreign(entry: str | Foreign) -> Foreign:
    return Foreign(entry) if isinstance(entry, str) else entry


def _places(spec: Spec, names: Names) -> Iterator[_Place]:
    """Yield the places of all leaves, in the model's order."""
    if spec.embeddings:
        for path, leaf in spec.embeddings.leaves("transformer.embeddings."):
            yield _Place(path, leaf, names.once, path)

    for number, block in spec.numbered():
        for key, leaf in block.leaves():
            yield _Place(f"transformer.blocks.{number}.{key}", leaf, names.blocks, key, names.block.format(number))

    if spec.norm:
        yield _Place("transformer.norm", spec.norm, names.once, "transformer.norm")
    yield from _places_of_heads(spec, names)


def _places_of_heads(spec: Spec, names: Names) -> Iterator[_Place]:
    """Yield the places of the heads' leaves."""
    for head in spec.heads:
        for path, leaf in head.leaves():
            yield _Place(path, leaf, names.heads.get(head.loss, {}), path)


def _links(parameter: Parameter, entry: Foreign, ranks: Ranks, rows: int) -> Iterator[Link]:
    """Yield the links of one parameter: one for each of its fused parts, where these lie otherwise there."""
    ways = ranks.tp if any(map(split, parameter.dims)) else 1
    shape, ours, theirs = list[int](), list[tuple[Any, ...]](), list[tuple[Any, ...]]()
    for position, dim in enumerate(parameter.dims):
        foreign = dim._replace(padded=rows) if dim.padded else dim
        [run] = runs(foreign, ranks)
        stored = foreign.stored // (ways if split(dim) else 1) if dim.padded and rows else run.length
        if run.length != parameter.shape[position]:
            ours.append(("narrow", position, min(run.global_offset, parameter.shape[position]), run.length))
        if run.length != stored:
            theirs.append(("narrow", position, 0, run.length))
        shape.append(stored)

    turned = entry.transposed and parameter.role in ("matrix", "head")
    for name, length, own_view, foreign_view in _rows(parameter.dims[0], shape[0], entry, ways):
        whole = (length, *shape[1:])
        first = (("transpose", 0, 1),) if turned else ()
        yield Link(
            Side(parameter.name, parameter.shape, (*ours, *own_view)),
            Side(name, whole[::-1] if turned else whole, (*first, *theirs, *foreign_view)),
        )


def _rows(dim: Dim, length: int, entry: Foreign, ways: int) -> Iterator[tuple[str, int, View, View]]:
    """Yield which of a rank's rows here are which rows there: a tensor's name there, its rows, and both views."""
    if not dim.fused or entry.order == "same":
        yield entry.name, length, (), ()
        return

    units, unit, start = dim.units // ways, dim.size // dim.units, 0
    braces = re.search(r"\{(.*)\}", entry.name)
    for i, part in enumerate(dim.fused):
        ours: View = ("unflatten", 0, (units, unit)), ("narrow", 1, start, part.size)
        pieces: View = (("unflatten", 0, (units, part.size)),)
        if braces:
            name = entry.name.replace(braces[0], braces[1].split(",")[i])
            yield name, units * part.size, ours, pieces
        elif entry.order == "turns":
            turns: View = ("unflatten", 0, (units, part.size, len(dim.fused))), ("select", 2, i)
            yield entry.name, length, ours, turns
        else:
            yield entry.name, length, ours, (("narrow", 0, units * start, units * part.size), *pieces)
        start += part.size
