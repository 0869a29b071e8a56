"""Megatron's indexed dataset, byte for byte: PREFIX.bin holds the tokens, PREFIX.idx says where each sequence lies.

The .bin file is every token id back to back, without a header. The .idx file, little endian:

    offset 0    9 bytes     b"MMIDIDX" and two zero bytes
    offset 9    uint64      version, 1
    offset 17   uint8       dtype code of the tokens
    offset 18   uint64      sequences S
    offset 26   uint64      documents + 1, D
    offset 34   int32[S]    tokens of each sequence
                int64[S]    byte offset of each sequence in .bin
                int64[D]    first sequence of each document, and S at the end

A set may be larger than memory in every respect, so the reader maps both files, and the writer keeps nothing: lengths
and documents go to files of their own until `close` joins them. `commit` returns a position that is safe on disk, from
which a later writer goes on; that is all an interrupted preparation needs.
"""

import os
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from phalanx.errors import InputError

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
DTYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
SMALL_VOCAB = 65_500  # Megatron's limit: from here on tokens take 32 bits
CHUNK = 1 << 20

Array = np.ndarray[Any, np.dtype[Any]]


class IndexedDataset:
    """A prepared set, memory-mapped: opening it costs the same whatever its size.

    `tokens` is 1-D, every token id back to back; `lengths` int32 [sequences]; `starts` int64 [sequences], byte offsets
    in .bin; `documents` int64 [documents + 1], sequence numbers. Raises InputError when a file is missing, cut short
    or no such index.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = Path(prefix)
        bin_path, idx_path = set_paths(prefix)
        for path in (bin_path, idx_path):
            if not path.is_file():
                raise InputError(f"{path} is missing; make the set with: phalanx prepare INPUT... --out {prefix}")
        dtype, sequences, documents = _read_header(idx_path)
        if not sequences:
            raise InputError(f"{idx_path} lists no sequences; prepare the set again")
        lengths_at = HEADER.size
        starts_at = lengths_at + 4 * sequences
        documents_at = starts_at + 8 * sequences
        _check_size(idx_path, documents_at + 8 * documents)
        self.lengths = _map(idx_path, "<i4", lengths_at, sequences)
        self.starts = _map(idx_path, "<i8", starts_at, sequences)
        self.documents = _map(idx_path, "<i8", documents_at, documents)
        if self.documents[0] != 0 or self.documents[-1] != sequences:
            raise InputError(f"{idx_path} is damaged: its documents do not cover its {sequences:,} sequences")
        size = int(self.starts[-1]) + int(self.lengths[-1]) * dtype.itemsize
        _check_size(bin_path, size)
        if not size:
            raise InputError(f"{bin_path} holds no tokens; prepare the set again")
        self.tokens = _map(bin_path, dtype.str, 0, size // dtype.itemsize)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> Array:
        start = int(self.starts[i]) // self.tokens.itemsize
        return self.tokens[start : start + int(self.lengths[i])]

    def __reduce__(self) -> tuple[type["IndexedDataset"], tuple[Path]]:
        """Other processes map the files again instead of receiving a copy of the tokens."""
        return IndexedDataset, (self.prefix,)


class Position(NamedTuple):
    """How much of a set is safe on disk."""

    tokens: int = 0
    sequences: int = 0
    documents: int = 0


class IndexedWriter:
    """Writes a set as PREFIX.bin.partial and PREFIX.idx.partial; `close` renames both.

    Tokens are uint16 when `vocab` is below 65,500, else int32. With `start`, a position that `commit` returned, it
    goes on behind that position and drops whatever was written later.
    """

    def __init__(self, prefix: str | Path, vocab: int, start: Position | None = None) -> None:
        self._dtype = np.dtype("<u2" if vocab < SMALL_VOCAB else "<i4")
        self._paths = set_paths(prefix)
        self._bin_path, self._lengths_path, self._documents_path = partial_paths(prefix)
        self._tokens, self._sequences, self._documents = start or Position()
        self._bin_path.parent.mkdir(parents=True, exist_ok=True)
        self._bin = _open_at(self._bin_path, self._tokens * self._dtype.itemsize)
        self._lengths_file = _open_at(self._lengths_path, self._sequences * 4)
        self._documents_file = _open_at(self._documents_path, self._documents * 8)

    def add(self, tokens: Array) -> None:
        """Append one sequence."""
        self.extend(tokens, np.array([len(tokens)]))

    def extend(self, tokens: Array, lengths: Array) -> None:
        """Append `len(lengths)` sequences, given back to back in `tokens`."""
        assert lengths.sum() == len(tokens)
        assert not len(tokens) or (tokens.min() >= 0 and tokens.max() <= np.iinfo(self._dtype).max)
        self._bin.write(tokens.astype(self._dtype, copy=False).tobytes())
        self._lengths_file.write(lengths.astype("<i4").tobytes())
        self._tokens += len(tokens)
        self._sequences += len(lengths)

    def end_document(self) -> None:
        """Close the document that the sequences since the last call make up."""
        self._documents_file.write(self._sequences.to_bytes(8, "little"))
        self._documents += 1

    def commit(self) -> Position:
        """Force everything to disk, and say how much that is."""
        for file in (self._bin, self._lengths_file, self._documents_file):
            _sync(file)
        return Position(self._tokens, self._sequences, self._documents)

    def close(self) -> None:
        """Write the index and give both files their names; the index last, as it makes the set whole."""
        self.commit()
        for file in (self._bin, self._lengths_file, self._documents_file):
            file.close()
        bin_path, idx_path = self._paths
        idx_partial = idx_path.with_name(idx_path.name + ".partial")
        with idx_partial.open("wb") as index:
            self._write_index(index)
            _sync(index)
        self._bin_path.replace(bin_path)
        idx_partial.replace(idx_path)
        self._lengths_path.unlink()
        self._documents_path.unlink()

    def _write_index(self, index: BinaryIO) -> None:
        code = next(code for code, name in DTYPES.items() if np.dtype(name) == self._dtype)
        index.write(HEADER.pack(MAGIC, 1, code, self._sequences, self._documents + 1))
        with self._lengths_path.open("rb") as lengths:
            while block := lengths.read(CHUNK):
                index.write(block)
            lengths.seek(0)
            start = 0
            while block := lengths.read(CHUNK):
                ends = np.frombuffer(block, "<i4").cumsum(dtype=np.int64) * self._dtype.itemsize + start
                index.write(np.concatenate([[start], ends[:-1]]).astype("<i8").tobytes())
                start = int(ends[-1])
        index.write(bytes(8))
        with self._documents_path.open("rb") as documents:
            while block := documents.read(CHUNK):
                index.write(block)


def set_paths(prefix: str | Path) -> tuple[Path, Path]:
    """The .bin and .idx files of a set."""
    return Path(f"{prefix}.bin"), Path(f"{prefix}.idx")


def partial_paths(prefix: str | Path) -> tuple[Path, Path, Path]:
    """The files of a set that is being written: tokens, lengths, documents."""
    return Path(f"{prefix}.bin.partial"), Path(f"{prefix}.lengths.partial"), Path(f"{prefix}.documents.partial")


def _read_header(path: Path) -> tuple[np.dtype[Any], int, int]:
    with path.open("rb") as file:
        header = file.read(HEADER.size)
    if not header.startswith(MAGIC):
        raise InputError(f"{path} is not a Megatron index: it begins with {header[:9]!r}, not {MAGIC!r}")
    if len(header) < HEADER.size:
        raise InputError(f"{path} is cut short inside its header; copy or prepare the set again")
    _, version, code, sequences, documents = HEADER.unpack(header)
    if version != 1:
        raise InputError(f"{path} has index version {version}; only version 1 is known")
    if code not in DTYPES:
        raise InputError(f"{path} has dtype code {code}, which holds no tokens; known codes: {list(DTYPES)}")
    return np.dtype(DTYPES[code]), sequences, documents


def _check_size(path: Path, expected: int) -> None:
    size = path.stat().st_size
    if size != expected:
        what = "is cut short" if size < expected else "is too long"
        raise InputError(f"{path} {what}: it has {size:,} bytes and should have {expected:,}; copy or prepare it again")


def _map(path: Path, dtype: str, offset: int, count: int) -> Array:
    return np.asarray(np.memmap(path, dtype, "r", offset, (count,)))


def _open_at(path: Path, size: int) -> BinaryIO:
    file = path.open("r+b" if path.exists() else "wb")
    file.truncate(size)
    file.seek(size)
    return file


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
