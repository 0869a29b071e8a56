"""Safetensors files as checkpoints want them: written and read at the disk's speed, summed on the way.

Written past the page cache, which would hold gigabytes that nobody asks for and costs several times the disk's own
time where memory is fresh; read by a few threads straight into the tensors' memory, each summing what it has just read.
CRC-32 finds damage (every run of up to 32 flipped bits), at twice the speed of SHA-256 here; it is no protection
against a forger, who gains nothing but other weights.
"""

import errno
import fcntl
import json
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from phalanx.errors import InputError
from phalanx.run import checksum

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
WRITTEN, READ = 1 << 24, 1 << 21  # bytes at once
SECTOR = 4096  # what is written past the page cache is a multiple of it
READERS = 4


class Damaged(InputError):
    """A checkpoint is incomplete or not what was written. The message says which file and how."""


class File(NamedTuple):
    """One written file: its name in the checkpoint, its size, its CRC-32."""

    name: str
    bytes: int
    checksum: int


class Wanted(NamedTuple):
    """A region of a stored tensor, and the tensor of the same shape to fill with it."""

    region: tuple[slice, ...]
    target: Tensor


def write_file(path: Path, shapes: Mapping[str, Tensor], read: Callable[[str], Tensor], **metadata: str) -> File:
    """Write one safetensors file: length of the header, the header in JSON, then the tensors' bytes back to back.

    `shapes` has the tensors by name, or as many on the meta device; `read` gives them, one at a time.
    """
    ordered = sorted(shapes, key=lambda name: -shapes[name].dtype.itemsize)  # so that every tensor is aligned
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name in ordered:
        start, end = end, end + shapes[name].nbytes
        entry = {"dtype": NAMES[shapes[name].dtype], "shape": [*shapes[name].shape], "data_offsets": [start, end]}
        header[name] = entry
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    with _Sink(path) as sink:
        sink.write(memoryview(struct.pack("<Q", len(text)) + text))
        for name in ordered:
            sink.write(_bytes(read(name).cpu().contiguous()))
    return File(path.name, sink.size, sink.checksum)


class _Sink:
    """A new file, written past the page cache where the file system allows it; on the disk when it is closed."""

    def __init__(self, path: Path) -> None:
        self.size, self.checksum, self.filled = 0, 0, 0
        self.buffer = memoryview(mmap.mmap(-1, WRITTEN))  # aligned, as such writes must be
        self.direct = getattr(os, "O_DIRECT", 0)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            self.handle = os.open(path, flags | self.direct, 0o666)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            self.handle, self.direct = os.open(path, flags, 0o666), 0

    def write(self, piece: memoryview) -> None:
        """Append bytes to the file and to its checksum."""
        at = 0
        while at < len(piece):
            some = piece[at : at + WRITTEN - self.filled]
            self.buffer[self.filled : self.filled + len(some)] = some
            self.filled, at = self.filled + len(some), at + len(some)
            if self.filled == WRITTEN:
                self._flush()

    def _flush(self) -> None:
        self.checksum = zlib.crc32(self.buffer[: self.filled], self.checksum)
        self.size += self.filled
        whole = -(-self.filled // SECTOR) * SECTOR  # what is too much is cut off at the end
        left = self.buffer[:whole]
        while left:
            try:
                left = left[os.write(self.handle, left) :]
            except OSError as error:
                if error.errno != errno.EINVAL or not self.direct:
                    raise
                fcntl.fcntl(self.handle, fcntl.F_SETFL, 0)
                self.direct = 0
        self.filled = 0

    def __enter__(self) -> "_Sink":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
                os.ftruncate(self.handle, self.size)
                os.fsync(self.handle)
        finally:
            os.close(self.handle)


def read_file(path: Path, wanted: Mapping[str, Sequence[Wanted]], written: int | None) -> None:
    """Fill what is `wanted` of a file's tensors. With the CRC-32 that was `written` all of it is read and summed, and
    Damaged raised where that differs: what was filled is then of no use.

    Whole tensors are read into their place; of others the regions are cut out afterwards.
    """
    with _opened(path) as handle:
        begin, entries = _header(handle, path.name)
        summed, cut = written is not None, []
        pieces: list[tuple[int, int, Tensor | None]] = [(0, begin, None)]
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            start, end = entry["data_offsets"]
            target = _whole(wanted.get(name, ()), end - start)
            if target is None:
                cut += [(name, each) for each in wanted.get(name, ())]
            if target is not None or summed:
                pieces += [
                    (begin + at, min(READ, end - at), None if target is None else target[at - start :])
                    for at in range(start, end, READ)
                ]

        if absent := wanted.keys() - entries.keys():
            raise Damaged(f"{path.name} is altered: it lacks {min(absent)}")
        block = _Block(handle, path.name, summed)
        with ThreadPoolExecutor(READERS, "reading") as threads:
            sums = [*threads.map(block.read, pieces)]

    if written is not None and checksum.joined(zip(sums, (size for _, size, _ in pieces), strict=True)) != written:
        raise Damaged(f"{path.name} is altered: its checksum differs")

    if cut:
        try:
            with safe_open(path, framework="pt") as file:
                for name, each in cut:
                    each.target.copy_(file.get_slice(name)[each.region])
        except SafetensorError as error:  # stricter about headers than we are
            raise Damaged(f"{path.name} is altered: {error}") from None


class _Block(threading.local):
    """A thread's means to read a piece of a file, with memory for what has no place yet."""

    def __init__(self, handle: int, name: str, summed: bool) -> None:
        self.handle, self.name, self.summed = handle, name, summed
        self.scratch = torch.empty(READ, dtype=torch.uint8)

    def read(self, piece: tuple[int, int, Tensor | None]) -> int:
        """Read into a flat tensor of bytes what the file has at an offset, so many bytes. Return their CRC-32, if
        wanted, else 0.
        """
        offset, size, target = piece
        straight = target is not None and target.device.type == "cpu"
        place = target[:size] if straight and target is not None else self._room(size)
        view, at = _bytes(place), 0
        while at < size:
            if not (got := os.preadv(self.handle, [view[at:]], offset + at)):
                raise Damaged(f"{self.name} ends early")
            at += got
        if target is not None and not straight:
            target[:size].copy_(place)
        return zlib.crc32(view) if self.summed else 0

    def _room(self, size: int) -> Tensor:
        return self.scratch[:size] if size <= READ else torch.empty(size, dtype=torch.uint8)  # a long header


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _header(handle: int, name: str) -> tuple[int, dict[str, Any]]:
    """Return where a file's tensors begin, in bytes, and the header's entry of each. Damaged if it is not readable."""
    try:
        (length,) = struct.unpack("<Q", os.pread(handle, 8, 0))
        if length > os.fstat(handle).st_size - 8:
            raise ValueError
        entries = json.loads(os.pread(handle, length, 8))
        entries.pop("__metadata__", None)
        for entry in entries.values():
            start, end = entry["data_offsets"]
            if not 0 <= start <= end <= os.fstat(handle).st_size - 8 - length:
                raise ValueError
    except (struct.error, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise Damaged(f"{name} is altered: its header is not readable") from None
    return 8 + length, entries


def _whole(wanted: Sequence[Wanted], size: int) -> Tensor | None:
    """Return the bytes of the one target that a stored tensor of `size` bytes fills as it lies, if there is one."""
    if len(wanted) == 1 and (target := wanted[0].target.detach()).is_contiguous() and target.nbytes == size:
        return target.flatten().view(torch.uint8)
    return None


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.flatten().view(torch.uint8).numpy().data
