"""In what two descriptions differ, by path: so a kernel that knows one kind of model says why it takes no other."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Yield each difference of `one` from `other`, as "norm1.kind is rms, not layer"."""
    if is_dataclass(one) and type(one) is type(other):
        for field in fields(one):
            yield from differences(getattr(one, field.name), getattr(other, field.name), f"{path}.{field.name}")
    elif isinstance(one, tuple) and isinstance(other, tuple) and len(one) == len(other):
        for number, (mine, its) in enumerate(zip(one, other, strict=True)):
            yield from differences(mine, its, f"{path}.{number}")
    elif one != other:
        mine, its = (type(value).__name__ if is_dataclass(value) else value for value in (one, other))
        yield f"{path.lstrip('.')} is {mine}, not {its}"
