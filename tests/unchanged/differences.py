"""What differs first between the files that two trees wrote, in words that say where."""

import json
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tests.unchanged.jobs import Expected

TIMES = {"tokens_per_s", "mfu", "memory_gib", "seconds", "seconds_left"}  # what two equal runs may differ in


def verdict(job: str, differences: dict[str, str], expected: Sequence[Expected]) -> tuple[list[str], bool]:
    """The lines that tell of a job, and whether something differs that should not, or no longer differs that should."""
    meant = {each.file: each.reason for each in expected if each.job == job}
    told = [f"    {file}: {text}" for file, text in differences.items() if file not in meant]
    told += [f"    {file}: the same, though it is expected to differ" for file in meant if file not in differences]
    bad = bool(told)
    told += [f"    {file}: {differences[file]}, as expected: {meant[file]}" for file in meant if file in differences]
    return [f"{job}  {'DIFFERS' if bad else 'as expected' if told else 'same'}", *told], bad


def differing(old: Path, new: Path, patterns: tuple[str, ...], tolerance: float = 0.0) -> dict[str, str]:
    """Of the files in two folders that the patterns name: those that differ, with what differs first in each."""
    names = {str(file.relative_to(side)) for side in (old, new) for pattern in patterns for file in side.glob(pattern)}
    names = {name for name in names if not (old / name).is_dir() or not (new / name).is_dir()}
    if not names:
        return {", ".join(patterns): "neither tree wrote any such file"}
    found = {name: difference(old / name, new / name, tolerance) for name in sorted(names)}
    return {name: text for name, text in found.items() if text}


def difference(old: Path, new: Path, tolerance: float = 0.0) -> str:
    """What differs first between two files; nothing where they are the same. Curves may differ by the tolerance."""
    for file, which in (old, "is new"), (new, "is gone"):
        if not file.exists():
            return which
    if old.suffix == ".jsonl" and old.stem == "metrics":
        return _curves(_records(old), _records(new), tolerance)
    one, other = old.read_bytes(), new.read_bytes()
    if one == other:
        return ""
    if old.suffix == ".safetensors":
        return _tensors(old, new)
    if old.suffix == ".npy":
        import numpy as np

        return _numbers(np.load(old), np.load(new))
    if old.suffix == ".onnx":
        return _graphs(one, other)
    try:
        return lines(one.decode(), other.decode())
    except UnicodeDecodeError:
        return f"byte {_alike(one, other):,} of {len(one):,}, now of {len(other):,}"


def _records(file: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, without what tells of speed; of a start only how many parameters there are."""
    kept = []
    for record in map(json.loads, file.read_text().splitlines()):
        names = {"step", "kind", "parameters"} if record["kind"] == "start" else record.keys() - TIMES
        kept.append({name: value for name, value in record.items() if name in names})
    return kept


def _curves(old: list[dict[str, Any]], new: list[dict[str, Any]], tolerance: float) -> str:
    for one, other in zip(old, new, strict=False):
        where = f"step {one['step']} {one['kind']}"
        if one.keys() != other.keys():
            return f"{where}: {', '.join(one)} are now {', '.join(other)}"
        for key, value in one.items():
            now = other[key]
            if value == now:
                continue
            if not isinstance(value, int | float) or not isinstance(now, int | float):
                return f"{where} {key}: {value} is now {now}"
            if not abs(value - now) <= tolerance * max(1.0, abs(value)):  # also where one is no number
                return f"{where} {key}: {value!r} is now {now!r}, {abs(value - now):.1e} apart"
    return "" if len(old) == len(new) else f"{len(old)} records are now {len(new)}"


def lines(old: str, new: str) -> str:
    """The first line in which two different texts differ."""
    for number, (one, other) in enumerate(zip_longest(old.splitlines(), new.splitlines()), 1):
        if one is None or other is None:
            return f"line {number}: {_from(one, 0)} is now {_from(other, 0)}"
        if one != other:
            start = max(0, _alike(one, other) - 40)
            return f"line {number}: {_from(one, start)} is now {_from(other, start)}"
    return "how lines end"


def _alike(one: str | bytes, other: str | bytes) -> int:
    """How many characters, or bytes, both begin with."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _from(line: str | None, start: int) -> str:
    """A hundred characters of a line that may be absent."""
    if line is None:
        return "nothing"
    return repr(f"{'…' * (start > 0)}{line[start : start + 100]}{'…' * (start + 100 < len(line))}")


def _tensors(old: Path, new: Path) -> str:
    """What differs first between two files of tensors; in which order these lie is no difference."""
    import torch
    from safetensors import safe_open

    with safe_open(old, "pt") as one, safe_open(new, "pt") as other:
        before, after = set(one.keys()), set(other.keys())
        for names, what in (before - after, "is gone"), (after - before, "is new"):
            if names:
                return f"{min(names)} {what}"
        for name in sorted(before):
            a, b = one.get_tensor(name), other.get_tensor(name)
            if a.dtype != b.dtype:
                return f"{name}: {a.dtype} is now {b.dtype}"
            if text := _numbers(a.double().numpy(), b.double().numpy()):
                return f"{name} {text}"
            if not torch.equal(*(tensor.view(-1).view(torch.uint8) for tensor in (a, b))):
                return f"{name}: signs of zeros, or what is no number"
        if one.metadata() != other.metadata():
            return f"the metadata {one.metadata()} is now {other.metadata()}"
    return ""


def _numbers(old: Any, new: Any) -> str:
    """Of two arrays: shapes, else the first number that differs."""
    import numpy as np

    if old.shape != new.shape or old.dtype != new.dtype:
        return f"numbers: {old.dtype} {old.shape} is now {new.dtype} {new.shape}"
    places = np.argwhere((old != new) & ~((old != old) & (new != new)))
    if not len(places):
        return ""
    at = tuple(int(n) for n in places[0])
    return f"{list(at)}: {old[at]} is now {new[at]}, with {len(places) - 1:,} more"


def _graphs(old: bytes, new: bytes) -> str:
    import onnx

    models = [onnx.load_from_string(content) for content in (old, new)]
    for model in models:
        _forget_sources(model)
    one, other = map(str, models)
    return lines(one, other) if one != other else ""


def _forget_sources(message: Any) -> None:
    """Remove what tells from which lines and classes of the sources a graph was made, in all that a message holds."""
    for name in ("metadata_props", "doc_string"):
        if name in message.DESCRIPTOR.fields_by_name:
            message.ClearField(name)
    for field, value in message.ListFields():
        if field.message_type:
            for inner in [value] if hasattr(value, "ListFields") else value:
                _forget_sources(inner)
