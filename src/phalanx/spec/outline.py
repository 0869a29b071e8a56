"""The outline of a model: its parts as a tree, and its parameters by kind.

It is drawn from the description alone, whatever parts, leaves and settings that has.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, NamedTuple

from phalanx.spec.leaves import Leaf, Parameter
from phalanx.spec.model import Attention, Spec
from phalanx.spec.parts import Layer, Part

NOT_SHOWN = {"std", "stds", "per", "bias", "hidden", "loss", "tied"}  # fields that are seen elsewhere, or only begin it
BLOCKS = 3  # ranges of numbers that a name has, at most


class Row(NamedTuple):
    """A part or a leaf, or several equal ones of one place, such as blocks.

    `path` is the name of the first in the model, `name` how it is called under the part that holds it, at `depth`.
    `shape` is that of one's weight, without padding, and empty for a part; `parameters` are those of all `copies`.
    """

    depth: int
    path: str
    name: str
    what: str
    shape: tuple[int, ...]
    copies: int
    parameters: int


def rows(spec: Spec) -> Iterator[Row]:
    """Yield the parts of a model from the top, each before those that it holds."""
    heads = {path for head in spec.heads for path, _ in head.chain}
    yield from _below([(name, part) for name, part in spec.parts() if name not in heads], "", 0, 1)
    for head in spec.heads:
        yield Row(0, head.name, f"head for {head.loss}", _settings(head), (), 1, _count(head.parameters()))
        yield from _below(head.parts(), "", 1, 1)


def parameters_by_kind(spec: Spec) -> Mapping[str, int]:
    """Return the number of parameters by kind, the largest first: embeddings, norms, heads, and those of layers by the
    names that blocks have for them, as attention. A matrix that is tied to another counts once, there.
    """
    counts = Counter[str]()
    heads = {path for head in spec.heads for path, _ in head.chain}
    for name, part in spec.parts():
        for kind, parameter in _kinds(name, part, "heads" if name in heads else ""):
            counts[kind] += parameter.elements
    return dict(counts.most_common())


def sizes(spec: Spec) -> dict[str, int]:
    """Return a model's sizes: parameters, blocks, width, heads and key heads (of its first block), the tokens of its
    context and of its vocabulary.
    """
    assert spec.embeddings is not None
    attention = spec.blocks[0].attention
    return {
        "parameters": spec.elements,
        "layers": len(spec.blocks),
        "hidden": spec.hidden,
        "heads": attention.heads,
        "kv_heads": attention.kv_heads,
        "context": spec.positions,
        "vocabulary": spec.embeddings.token.rows.size,
    }


def cached(spec: Spec) -> int:
    """Return the keys and values, in elements, that a decoder keeps of each token; 0 for an encoder."""
    return sum(layer.costs().cached for layer in _layers(spec)) if spec.causal else 0


def _layers(part: Part) -> Iterator[Layer]:
    if isinstance(part, Layer):
        yield part
        return
    for _, below in part.parts():
        if isinstance(below, Part):
            yield from _layers(below)


def _kinds(name: str, part: Part | Leaf, kind: str) -> Iterator[tuple[str, Parameter]]:
    """Yield the parameters of a part with their kinds; `kind` is that of its matrices, where it is known."""
    if isinstance(part, Part):
        for below, child in part.parts():
            within = name.replace("_", "-") if isinstance(part, Layer) else kind
            yield from _kinds(below, child, within)
        return
    for parameter in part.parameters():
        own = {"norm": "norms", "table": "embeddings"}.get(parameter.role, kind or "others")
        yield own, parameter


def _below(parts: Iterable[tuple[str, Part | Leaf]], path: str, depth: int, copies: int) -> Iterator[Row]:
    """Yield the rows of some parts and of what they hold. Equal parts with numbers for names are one row."""
    alike: dict[tuple[str, Part | Leaf], list[str]] = {}
    for name, part in parts:
        stem, dot, number = name.rpartition(".")
        alike.setdefault((stem + dot if number.isdecimal() else name, part), []).append(number)

    for (stem, part), numbers in alike.items():
        numbered = stem.endswith(".")
        first, label = (stem + numbers[0], stem + _ranges([*map(int, numbers)])) if numbered else (stem, stem)
        several = copies * len(numbers)
        label += f" (x {len(numbers)})" if len(numbers) > 1 else ""
        parameters = [*part.parameters()]
        shape = () if isinstance(part, Part) else _shape(part, parameters)
        yield Row(depth, path + first, label, _what(part), shape, several, several * _count(parameters))
        if isinstance(part, Part):
            yield from _below(part.parts(), f"{path}{first}.", depth + 1, several)


def _count(parameters: Iterable[Parameter]) -> int:
    return sum(parameter.elements for parameter in parameters)


def _shape(leaf: Leaf, parameters: Sequence[Parameter]) -> tuple[int, ...]:
    """Return the shape of a leaf's weight; of one that owns none, of the product with another's."""
    weight = next((parameter for parameter in parameters if parameter.name == "weight"), None)
    if weight is None:
        return tuple(getattr(leaf, name).size for name in ("outputs", "inputs") if hasattr(leaf, name))
    return tuple(dim.size for dim in weight.dims)


def _what(part: Part | Leaf) -> str:
    """Return what is to be said of a part or a leaf beside its shape."""
    said = [_settings(part)]
    if not isinstance(part, Part):
        names = [fused.name for parameter in part.parameters() for dim in parameter.dims for fused in dim.fused]
        said.insert(0, ", ".join(dict.fromkeys(names)))
        said += ["bias" for parameter in part.parameters() if parameter.name == "bias"]
        if tied := getattr(part, "tied", ""):
            said.append(f"tied to {tied}")
    return "; ".join(filter(None, said))


def _settings(part: Any) -> str:
    """Return the fields of a part that are settings, not parts, and have other values than by default."""
    said = {field.name: _setting(field, getattr(part, field.name)) for field in fields(part)}
    if isinstance(part, Attention) and part.window and not part.causal:
        said["window"] = f"window={part.window - 1:,} to either side"
    return " ".join(filter(None, said.values()))


def _setting(field: Field[Any], value: Any) -> str:
    """Return a field as it is shown; "" for one that is not, or that has its default."""
    held = isinstance(value, Part | Leaf | tuple) or value is None
    usual = field.default is not MISSING and value == field.default
    if held or usual or field.name in NOT_SHOWN:
        return ""
    if is_dataclass(value):
        return f"{field.name}({_settings(value)})"
    if isinstance(value, bool):
        return field.name if value else f"{field.name}=no" if field.default is True else ""
    if not value and field.default is None:  # as a dropout of 0
        return ""
    form = {int: ",", float: ".6g"}.get(type(value), "")
    return f"{field.name}={value:{form}}"


def _ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers as ranges: 0-4, 6-10, 12-16 and more."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    shown = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in found[:BLOCKS]]
    return ", ".join(shown) + (" and more" if len(found) > BLOCKS else "")
