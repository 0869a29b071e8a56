"""The differences of two descriptions, by path: so a kernel that knows one kind of model says why it takes no other."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any


def differences(first: Any, second: Any, path: str = "") -> Iterator[str]:
    """Yield each difference of `first` from `second`, as "norm1.kind is rms, not layer"."""
    if is_dataclass(first) and type(first) is type(second):
        for field in fields(first):
            yield from differences(getattr(first, field.name), getattr(second, field.name), f"{path}.{field.name}")
    elif isinstance(first, tuple) and isinstance(second, tuple) and len(first) == len(second):
        for number, (left, right) in enumerate(zip(first, second, strict=True)):
            yield from differences(left, right, f"{path}.{number}")
    elif first != second:
        left, right = (type(value).__name__ if is_dataclass(value) else value for value in (first, second))
        yield f"{path.lstrip('.')} is {left}, not {right}"
