"""Whether a description holds together: what modules, shards and costs take for granted of it is asked here, once.

A description comes from a family's own code, maybe from outside the package. What is wrong with it is said by the path
of the leaf and the numbers, before anything is planned, trained or written.
"""

import math
from collections.abc import Iterator
from functools import cache
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from phalanx.spec.leaves import Dim, Fused, Leaf, Matrix, Norm, Table
from phalanx.spec.model import MLP, Attention, Block, Embeddings, Head, Spec
from phalanx.spec.partition import AXES
from phalanx.spec.rope import BOUNDS, Rope
from phalanx.spec.supported import OVER_WORDS, PRETRAINING, unsupported

_PARTS = Spec, Embeddings, Block, Attention, MLP, Head, Matrix, Table, Norm, Rope, Dim, Fused
_MAY_BE_ZERO = {  # of the whole numbers
    "size", "units", "padded", "pieces", "first", "candidates", "window", "original", "offset",
}  # fmt: skip


def flaw(spec: Spec) -> str:
    """Return the first thing that is wrong with the description of a whole model, as "head.inputs is 32, …"; "" if
    nothing is.
    """
    return next(_flaws(spec), "")


def _flaws(spec: Spec) -> Iterator[str]:
    """Yield what is wrong, first what keeps the rest from being asked."""
    yield from _wrong_values(spec)
    yield from _wrong_embeddings(spec)
    for path, block in _different_blocks(spec):
        yield from _wrong_block(block, spec.hidden, path)
    if spec.norm:
        yield from _not_embed(spec.norm.dim, spec.hidden, "transformer.norm")

    if reason := unsupported(spec):
        yield f"it has {reason}, which no module here computes"
    for head in spec.heads:
        yield from _wrong_head(head, spec)


def _different_blocks(spec: Spec) -> Iterator[tuple[str, Block]]:
    """Yield the blocks by path, of one that stands in several places the first."""
    seen = set[int]()
    for number, block in enumerate(spec.blocks):
        if id(block) not in seen:
            seen.add(id(block))
            yield f"transformer.blocks.{number}", block


# The values of fields, which are to be what their annotations say.


def _wrong_values(spec: Spec) -> Iterator[str]:
    """Yield the fields that hold something else than their annotations say, or a number out of its range."""
    for name in ("hidden", "positions", "first"):
        yield from _wrong_value(name, getattr(spec, name), int, name)
    if spec.first:
        yield f"first is {spec.first}, and a whole model begins with block 0"
    yield from _wrong_value("embeddings", spec.embeddings, Embeddings, "transformer.embeddings")

    if not isinstance(spec.blocks, tuple | list) or not spec.blocks:
        yield f"transformer.blocks is {_shown(spec.blocks)}, not a tuple of blocks"
    for path, block in _different_blocks(spec):
        yield from _wrong_value("blocks", block, Block, path)
    yield from _wrong_value("norm", spec.norm, Norm | None, "transformer.norm")

    if not isinstance(spec.heads, tuple) or not spec.heads:
        yield f"heads is {_shown(spec.heads)}, not a tuple of heads"
    paths = set[str]()
    for number, head in enumerate(spec.heads):
        yield from _wrong_value("heads", head, Head, f"heads.{number}")
        if not head.chain:
            yield f"heads.{number}.chain is empty: a head for {head.loss} has leaves"
        for path, _ in head.chain:
            if path in paths:
                yield f"{path} is the path of two leaves"
            paths.add(path)


def _wrong_value(name: str, value: Any, hint: Any, path: str) -> Iterator[str]:
    """Yield how a value under the field `name` at `path`, or what is below it, is not what its annotation says."""
    if get_origin(hint) is tuple:
        yield from _wrong_tuple(name, value, get_args(hint), path)
        return

    choices = _choices(hint)
    kind = next((choice for choice in choices if _is(value, choice)), None)
    if kind is None:
        yield f"{path} is {_shown(value)}, not {' or '.join(map(_called, choices))}"
    elif kind in _PARTS:
        for field, below in _hints(kind).items():
            yield from _wrong_value(field, getattr(value, field), below, f"{path}.{field}")
    elif kind in (int, float) and (needs := _range(name, value, kind)):
        yield f"{path} is {value}, not {needs}"


def _wrong_tuple(name: str, value: Any, hints: tuple[Any, ...], path: str) -> Iterator[str]:
    if not isinstance(value, tuple):
        yield f"{path} is {_shown(value)}, not a tuple"
        return
    each = hints[:1] * len(value) if hints[-1] is Ellipsis else hints
    if len(each) != len(value):
        yield f"{path} has {len(value)} values, not {len(each)}"
    for number, (below, hint) in enumerate(zip(value, each, strict=False)):
        leaf = name == "chain" and get_origin(hint) is not tuple and number == 1  # known by its own path
        yield from _wrong_value(name, below, hint, value[0] if leaf else f"{path}.{number}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    """Return the annotations of a part's fields."""
    return get_type_hints(kind)


@cache
def _choices(hint: Any) -> tuple[Any, ...]:
    """Return the classes and the words of which an annotation allows any."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return tuple(choice for each in get_args(hint) for choice in _choices(each))
    return (hint,)


def _is(value: Any, choice: Any) -> bool:
    """Return whether a value is of a class, or the word itself. Numbers may be those of other packages."""
    if isinstance(choice, str):
        return isinstance(value, str) and value == choice
    if choice is bool:
        return isinstance(value, bool | Integral) and value in (0, 1)
    if choice in (int, float):
        return isinstance(value, Integral if choice is int else Real) and not isinstance(value, bool)
    return isinstance(value, choice)


def _range(name: str, value: Any, kind: type) -> str:
    """Return what a number is to be that it is not; "" where it is in its range."""
    if kind is int:
        least = 0 if name in _MAY_BE_ZERO else 1
        return "" if value >= least else f"{least} or more"
    if name == "drop":
        return "" if 0 <= value < 1 else "from 0 to less than 1"
    if name == "theta":
        return "" if 0 < value < math.inf else "a positive number"
    return "" if 0 <= value < math.inf else "0 or a positive number"


def _shown(value: Any) -> str:
    """Return a value as a message shows it, a part or a container by its kind."""
    if value is None or isinstance(value, str | Real):
        return repr(value)
    return "empty" if isinstance(value, tuple | list) and not value else f"of type {type(value).__name__}"


def _called(choice: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", type(None): "None", str: "a text"}
    return repr(choice) if isinstance(choice, str) else names.get(choice) or choice.__name__


# Sizes, which are to meet.


def _wrong_embeddings(spec: Spec) -> Iterator[str]:
    """Yield the tables whose rows are not as many, or not as wide, as the rest of the model says."""
    assert spec.embeddings is not None
    rows: list[tuple[str, Table | None, str]] = [
        ("token", spec.embeddings.token, "vocab"),
        ("position", spec.embeddings.position, "position"),
        ("segment", spec.embeddings.segment, "segment"),
    ]
    for name, table, axis in rows:
        if table is None:
            continue
        path = f"transformer.embeddings.{name}"
        yield from _not_embed(table.hidden, spec.hidden, f"{path}.hidden")
        yield from _wrong_dim(table.rows, f"{path}.rows")
        if table.rows.axis != axis:
            yield f"{path}.rows lies along {table.rows.axis!r}, not {axis!r}"
        offset = spec.embeddings.offset
        if name == "position" and table.rows.stored != offset + spec.positions:
            begin = f", from row {offset} on" if offset else ""
            yield f"{path} has {table.rows.stored} rows, and the model's positions are {spec.positions}{begin}"
    if spec.embeddings.norm:
        yield from _not_embed(spec.embeddings.norm.dim, spec.hidden, "transformer.embeddings.norm")


def _wrong_block(block: Block, hidden: int, path: str) -> Iterator[str]:
    """Yield sizes of a block that are not the residual stream's, and key heads that do not divide its heads."""
    for name in ("norm1", "norm2", "branch1", "branch2"):
        if norm := getattr(block, name):
            yield from _not_embed(norm.dim, hidden, f"{path}.{name}")
    for name, layer in (("attention", block.attention), ("feed_forward", block.feed_forward)):
        if layer.hidden != hidden:
            yield f"{path}.{name}.hidden is {layer.hidden}, and the model's hidden is {hidden}"

    attention = block.attention
    if attention.heads % attention.kv_heads:
        yield f"{path}.attention.kv_heads={attention.kv_heads} does not divide its heads={attention.heads}"
    rope = attention.rope
    if rope and (rope.width % 2 or rope.width > attention.width):
        yield f"{path}.attention.rope.width is {rope.width}, not even and at most its width={attention.width}"
    if rope and rope.scaling in BOUNDS:
        if not rope.original:
            yield f"{path}.attention.rope.original is 0: {rope.scaling} scaling goes by the original length"
        if rope.low >= rope.high:
            yield f"{path}.attention.rope.low is {rope.low}, not less than high={rope.high}"
    if rope and not rope.factor:
        yield f"{path}.attention.rope.factor is 0"


def _wrong_head(head: Head, spec: Spec) -> Iterator[str]:
    """Yield where a head's leaves do not meet one another, the residual stream, or the vocabulary."""
    width, before = spec.hidden, "the model's hidden"
    for path, leaf in head.chain:
        inputs, outputs = _ends(leaf)
        yield from _wrong_dim(inputs, path)
        yield from _wrong_dim(outputs, path)
        if inputs.size != width:
            yield f"{path} reads {inputs.size} numbers, and {before} is {width}"
        width, before = outputs.size, f"the outputs of {path}"

    path, outputs = head.chain[-1][0], _ends(head.chain[-1][1])[1]
    if head.loss in OVER_WORDS:
        yield from _not_the_words(outputs, spec, path)
        if PRETRAINING[head.loss].looks_ahead == spec.causal:
            why = (
                "a head for mlm needs both sides of a token"
                if spec.causal
                else "a head for lm would see what it predicts"
            )
            yield f"transformer.blocks.0.attention.causal is {spec.causal}: {why}"
    elif head.loss == "nsp" and width != 2:
        yield f"{path} has {width} outputs, and a head for nsp has 2"


def _not_the_words(outputs: Dim, spec: Spec, path: str) -> Iterator[str]:
    """Yield how the outputs of a head over the vocabulary are others than the rows of the embedding."""
    assert spec.embeddings is not None
    rows = spec.embeddings.token.rows
    if outputs.axis != rows.axis:
        yield f"{path}'s outputs lie along {outputs.axis!r}, and the embedding's rows along {rows.axis!r}"
    for count, what in ((outputs.size, "words"), (outputs.stored, "rows with padding")):
        theirs = rows.size if what == "words" else rows.stored
        if count != theirs:
            yield f"{path} has {count} {what}, and transformer.embeddings.token has {theirs}"


def _ends(leaf: Leaf) -> tuple[Dim, Dim]:
    """Return the dimensions that a leaf of a head reads and gives."""
    if isinstance(leaf, Matrix):
        return leaf.inputs, leaf.outputs
    return (leaf.dim, leaf.dim) if isinstance(leaf, Norm) else (leaf.rows, leaf.hidden)


def _not_embed(dim: Dim, hidden: int, path: str) -> Iterator[str]:
    """Yield how a dimension is another than that of the residual stream."""
    if dim.axis != "embed":
        yield f"{path} lies along {dim.axis!r}, not 'embed'"
    if dim.stored != hidden:
        yield f"{path} is {dim.stored} wide, and the model's hidden is {hidden}"


def _wrong_dim(dim: Dim, path: str) -> Iterator[str]:
    """Yield an axis that no layout knows, no size (classes may be counted later, in the data), and too few rows with
    padding.
    """
    if dim.axis not in AXES:
        yield f"{path} lies along {dim.axis!r}; known are {', '.join(sorted(AXES))}"
    if not dim.size and dim.axis != "classes":
        yield f"{path} has size 0 along {dim.axis!r}"
    if dim.padded and dim.padded < dim.size:
        yield f"{path} has {dim.size} rows, which are more than padded={dim.padded}"
