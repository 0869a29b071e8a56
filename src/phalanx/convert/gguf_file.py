"""A GGUF file: its facts by key, and its tensors, each dequantised when it is asked for.

The package `gguf` knows the types of numbers and undoes their quantisation. The header is read here, where no length is
believed that the file is too short for.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

from phalanx.convert.folder import Tensors
from phalanx.errors import InputError
from phalanx.foreign import reading, short, unreadable

MAGIC, VERSIONS = b"GGUF", (2, 3)
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
QUANTISED = ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
ALIGNMENT = 32  # bytes; where tensors begin, unless the file says otherwise
MOST_DIMS = 4

# Types of values by their numbers: those of one size as numpy has them.
NUMBERS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
FLOAT, STRING, LIST = 6, 8, 9


class Stored(NamedTuple):
    """Where a tensor lies in the file: its shape, rows first, its type by GGML's name, and its bytes."""

    shape: tuple[int, ...]
    type: str
    start: int
    size: int


class GgufFile(Tensors):
    """The facts of a file, as `facts`, and its tensors by name: those of PLAIN as they are, others in fp32.

    InputError for a file that is damaged, and for one with a tensor of a type that is not known here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path):
            self._bytes = np.memmap(path, np.uint8, "c")  # what is written to would be copied: nothing is
        header = _Header(path, self._bytes.data)
        tensors, facts = header.counts()
        self.facts: dict[str, Any] = header.by_name(facts, header.value, "the key")
        places = header.by_name(tensors, header.place, "the tensor")
        start = header.aligned(self.facts.get("general.alignment", ALIGNMENT))
        self.stored = {name: header.stored(name, place, start) for name, place in places.items()}

    def __getitem__(self, name: str) -> Tensor:
        shape, kind, start, size = self.stored[name]
        numbers = self._bytes[start : start + size]
        if kind in PLAIN:
            return torch.from_numpy(numbers).view(PLAIN[kind]).reshape(shape)
        with reading(self.path):
            rows = dequantize(numbers.reshape(*shape[:-1], -1), GGMLQuantizationType[kind])
        return torch.from_numpy(rows).reshape(shape)

    def like(self, name: str) -> Tensor:
        """Return a tensor's shape and type of numbers, on the meta device."""
        stored = self.stored[name]
        return torch.empty(stored.shape, dtype=PLAIN.get(stored.type, torch.float32), device="meta")

    def __contains__(self, name: object) -> bool:
        return name in self.stored  # a Mapping's own would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


class _Header:
    """The header of a file, before its tensors, read from the first byte on. InputError for what cannot be read."""

    def __init__(self, path: Path, content: memoryview) -> None:
        self.path, self.content, self.at, self.alignment = path, content, 0, ALIGNMENT

    def counts(self) -> tuple[int, int]:
        """Return how many tensors and facts there are, after the file's kind and version."""
        if self._take(4) != MAGIC:
            raise unreadable(self.path, "it does not begin as GGUF does")
        version = self._number(4)
        if version not in VERSIONS:
            known = " and ".join(map(str, VERSIONS))
            raise InputError(f"{self.path}: version {version} of GGUF is not known here; {known} are, little-endian")
        return self._number(8), self._number(8)

    def by_name(self, count: int, read: Callable[[], Any], what: str) -> dict[str, Any]:
        """Return as many values as there are, each read after its name."""
        values: dict[str, Any] = {}
        for _ in range(count):
            name = self._text()
            if name in values:
                raise unreadable(self.path, f"{what} {short(name)} is there twice")
            values[name] = read()
        return values

    def value(self) -> Any:
        """Return a fact's value: a number, a text, or a list of either."""
        kind = self._number(4)
        if kind != LIST:
            [value] = self._values(kind, 1)
            return value
        kind = self._number(4)
        return self._values(kind, self._number(8))

    def place(self) -> tuple[list[int], int, int]:
        """Return a tensor's dimensions, the last first, its type's number, and where it begins after the header."""
        dims = self._number(4)
        if dims > MOST_DIMS:
            raise unreadable(self.path, f"a tensor of {dims} dimensions")
        return [self._number(8) for _ in range(dims)], self._number(4), self._number(8)

    def aligned(self, alignment: Any) -> int:
        """Return where the tensors begin: after the header, at a multiple of `alignment` bytes."""
        if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1):
            raise unreadable(self.path, f"general.alignment={short(alignment)} is no power of two from 8 on")
        self.alignment = alignment
        return -(-self.at // alignment) * alignment

    def stored(self, name: str, place: tuple[list[int], int, int], start: int) -> Stored:
        """Return where a tensor lies. InputError where that is not in the file, or its type is not known here."""
        dims, number, offset = place
        kind = next((each.name for each in GGMLQuantizationType if each == number), f"of the number {number}")
        if kind not in (*PLAIN, *QUANTISED):
            known = ", ".join((*PLAIN, *QUANTISED))
            raise InputError(f"{self.path}: {short(name)} is of the type {kind}, which is not known here; {known} are")

        block, width = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
        elements = 1
        for size in dims:
            elements *= size
        if not dims or not elements or dims[0] % block:
            raise unreadable(self.path, f"{short(name)} has the dimensions {dims}, which {kind} has not")
        size = elements // block * width
        if offset % self.alignment or start + offset + size > len(self.content):
            raise unreadable(self.path, f"{short(name)} does not lie in it")
        return Stored(tuple(reversed(dims)), kind, start + offset, size)

    def _values(self, kind: int, count: int) -> list[Any]:
        """Return values of one type, floats as the shortest decimals that are the same numbers there."""
        if kind == STRING:
            return [self._text() for _ in range(count)]
        if kind not in NUMBERS:
            what = "lists in lists" if kind == LIST else f"the type {kind} of values"
            raise unreadable(self.path, f"{what}, which is not known here")
        dtype = np.dtype(NUMBERS[kind])
        values = np.frombuffer(self._take(count * dtype.itemsize), dtype)
        return [float(str(value)) for value in values] if kind == FLOAT else values.tolist()

    def _text(self) -> str:
        content = self._take(self._number(8))
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise unreadable(self.path, "a text in it is no UTF-8") from None

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _take(self, size: int) -> bytes:
        """Return the next bytes."""
        if size > len(self.content) - self.at:
            raise unreadable(self.path, "it ends early")
        self.at += size
        return bytes(self.content[self.at - size : self.at])
