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

import fcntl
import mmap
import os
import struct
from bisect import bisect_right
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from phalanx import durable
from phalanx.data.piece_cache import local_copy
from phalanx.data.remote import AnyPath, RemotePath, path_of
from phalanx.data.remote_tokens import RemoteTokens
from phalanx.errors import InputError

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")
DTYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
SMALL_VOCAB = 65_500  # Megatron's limit: from here on tokens take 32 bits
CHUNK = 1 << 20

Array = np.ndarray[Any, np.dtype[Any]]


class IndexedDataset:
    """A prepared set, memory-mapped: opening it costs the same whatever its size. Of a remote set the index is mapped
    from the cache, and tokens are read where they lie.

    `tokens` is 1-D, every token id back to back; `lengths` int32 [sequences]; `starts` int64 [sequences], byte offsets
    in .bin; `documents` int64 [documents + 1], sequence numbers. Raises InputError when a file is missing, cut short
    or no such index.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = str(prefix)
        bin_path, idx_path = set_paths(prefix)
        for path in (bin_path, idx_path):
            if not path.is_file():
                raise InputError(f"{path} is missing; {_remedy(str(prefix))}")

        self.index = local_copy(idx_path) if isinstance(idx_path, RemotePath) else idx_path
        dtype, sequences, documents = _read_header(self.index, idx_path)
        if not sequences:
            raise InputError(f"{idx_path} lists no sequences; prepare the set again")

        lengths_at = HEADER.size
        starts_at = lengths_at + 4 * sequences
        documents_at = starts_at + 8 * sequences
        _check_size(idx_path, documents_at + 8 * documents)

        self.lengths = _map(self.index, "<i4", lengths_at, sequences)
        self.starts = _map(self.index, "<i8", starts_at, sequences)
        self.documents = _map(self.index, "<i8", documents_at, documents)
        if self.documents[0] != 0 or self.documents[-1] != sequences:
            raise InputError(f"{idx_path} is damaged: its documents do not cover its {sequences:,} sequences")

        size = int(self.starts[-1]) + int(self.lengths[-1]) * dtype.itemsize
        _check_size(bin_path, size)
        if not size:
            raise InputError(f"{bin_path} holds no tokens; prepare the set again")

        count = size // dtype.itemsize
        self.tokens: Any = (
            RemoteTokens(bin_path, dtype.str, count)
            if isinstance(bin_path, RemotePath)
            else _map(bin_path, dtype.str, 0, count)
        )
        self.unsigned = np.dtype(f"<u{dtype.itemsize}")

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> Array:
        start = int(self.starts[i]) // self.tokens.itemsize
        return cast(Array, self.tokens[start : start + int(self.lengths[i])])

    def read(self, first: int, last: int, vocab: int) -> Array:
        """Return the tokens `first` to `last`, int64 [last - first]. InputError that names the first one that is none
        of 0 to `vocab` - 1.
        """
        numbers: Array = self.tokens[first:last].view(self.unsigned)  # negative ones are beyond any vocabulary
        if len(numbers) and numbers.max() >= vocab:
            at = first + int((numbers >= vocab).argmax())
            raise InputError(
                f"{set_paths(self.prefix)[0]}: document {self.document_at(at):,} holds the token {self.tokens[at]} "
                f"(byte {at * self.tokens.itemsize:,}), and the tokenizer has 0 to {vocab - 1}; name the tokenizer "
                f"that made the set, or look for damage with: phalanx data verify {self.prefix}"
            )
        return numbers.astype(np.int64)

    def document_at(self, token: int) -> int:
        """Return the number of the document that a token of the set belongs to."""
        # numpy's search would first copy the whole index: after the header's 34 bytes its numbers are not aligned
        sequence = bisect_right(self.starts, token * self.tokens.itemsize) - 1
        return bisect_right(self.documents, sequence) - 1


class Position(NamedTuple):
    """How far a set is written."""

    tokens: int = 0
    sequences: int = 0
    documents: int = 0
    open: int = 0  # tokens of the sequence that has not ended yet
    document: int = 0  # first sequence of the document that has not ended yet


class IndexedWriter:
    """Writes a set as PREFIX.bin.partial and PREFIX.idx.partial; `close` renames both.

    Tokens are uint16 when `vocab` is below 65,500, else int32. Empty sequences and documents are left out. With
    `start`, a position that `commit` returned, it goes on behind that position and drops whatever was written later.
    Raises InputError when another process writes the same set.
    """

    def __init__(self, prefix: str | Path, vocab: int, start: Position | None = None) -> None:
        self._dtype = _dtype(vocab)
        self._position = start or Position()
        self._paths = Path(f"{prefix}.bin"), Path(f"{prefix}.idx")
        self._bin_path, self._lengths_path, self._documents_path = partial_paths(prefix)
        self._bin_path.parent.mkdir(parents=True, exist_ok=True)
        self._bin = _open_at(self._bin_path, self._position.tokens * self._dtype.itemsize)
        self._lengths = _open_at(self._lengths_path, self._position.sequences * 4)
        self._documents = _open_at(self._documents_path, self._position.documents * 8)

    def extend(self, tokens: Array, ends: Array, documents: Array) -> None:
        """Append many tokens at once: after tokens[:ends[i]] a sequence ends, after documents[i] of those a document.

        Tokens behind the last end begin a sequence that a later call ends, so no sequence needs to fit in memory.
        """
        assert not len(tokens) or (tokens.min() >= 0 and tokens.max() <= np.iinfo(self._dtype).max)

        at = self._position
        lengths = np.diff(ends, prepend=-at.open)
        if len(lengths) and lengths.max() > np.iinfo(np.int32).max:
            raise InputError(f"a sequence of {lengths.max():,} tokens is more than an .idx file can tell; split it")

        written = at.sequences + np.concatenate([[0], np.cumsum(lengths > 0)])
        closed = np.unique(written[documents])
        closed = closed[closed > at.document].astype("<i8")

        self._bin.write(tokens.astype(self._dtype, copy=False).tobytes())
        self._lengths.write(lengths[lengths > 0].astype("<i4").tobytes())
        self._documents.write(closed.tobytes())

        self._position = Position(
            tokens=at.tokens + len(tokens),
            sequences=int(written[-1]),
            documents=at.documents + len(closed),
            open=len(tokens) - int(ends[-1]) if len(ends) else at.open + len(tokens),
            document=int(closed[-1]) if len(closed) else at.document,
        )

    def commit(self) -> Position:
        """Force everything to disk. Return how far that is."""
        for file in (self._bin, self._lengths, self._documents):
            _sync(file)
        return self._position

    def close(self) -> Position:
        """Write the index and give both files their names; the index last, as it makes the set whole."""
        self.commit()
        assert not self._position.open
        bin_path, idx_path = self._paths
        idx_partial = idx_path.with_name(idx_path.name + ".partial")
        with idx_partial.open("wb") as index:
            self._write_index(index)
            _sync(index)
        durable.rename(self._bin_path, bin_path)
        durable.rename(idx_partial, idx_path)
        self.discard()
        return self._position

    def discard(self) -> None:
        """Remove the partial files."""
        for file in (self._bin, self._lengths, self._documents):
            file.close()
        for path in (self._bin_path, self._lengths_path, self._documents_path):
            path.unlink(missing_ok=True)

    def _write_index(self, index: BinaryIO) -> None:
        code = next(code for code, name in DTYPES.items() if np.dtype(name) == self._dtype)
        index.write(HEADER.pack(MAGIC, 1, code, self._position.sequences, self._position.documents + 1))

        with self._lengths_path.open("rb") as lengths:
            while block := lengths.read(CHUNK):
                index.write(block)
            lengths.seek(0)
            start = 0
            while block := lengths.read(CHUNK):
                # int64 from the first sum on: a set has more bytes than int32 counts
                ends = np.frombuffer(block, "<i4").cumsum(dtype=np.int64) * self._dtype.itemsize + start
                index.write(np.concatenate([[start], ends[:-1]]).astype("<i8").tobytes())
                start = int(ends[-1])

        index.write(bytes(8))
        with self._documents_path.open("rb") as documents:
            while block := documents.read(CHUNK):
                index.write(block)


def set_paths(prefix: str | Path) -> tuple[AnyPath, AnyPath]:
    """Return the .bin and .idx files of a set."""
    return path_of(f"{prefix}.bin"), path_of(f"{prefix}.idx")


def set_sizes(vocab: int, tokens: int, sequences: int, documents: int) -> tuple[int, int]:
    """Return the bytes of the .bin and .idx files of a set."""
    return tokens * _dtype(vocab).itemsize, HEADER.size + 12 * sequences + 8 * (documents + 1)


def partial_paths(prefix: str | Path) -> tuple[Path, Path, Path]:
    """Return the files of a set that is being written: tokens, lengths, documents."""
    return Path(f"{prefix}.bin.partial"), Path(f"{prefix}.lengths.partial"), Path(f"{prefix}.documents.partial")


def _dtype(vocab: int) -> np.dtype[Any]:
    return np.dtype("<u2" if vocab < SMALL_VOCAB else "<i4")


def _remedy(name: str) -> str:
    """Return what to do where there is no set `name`: it may be a set's file, or text that is not prepared."""
    prefix = Path(name)
    if prefix.suffix in (".bin", ".idx") and prefix.exists():
        return f"a set is named without {prefix.suffix}: {prefix.with_suffix('')}"
    if prefix.is_dir():
        return f"make a set with: phalanx prepare {prefix} --out {prefix / 'PREFIX'} --tokenizer TOKENIZER"
    if prefix.is_file():
        return f"make a set with: phalanx prepare {prefix} --out {prefix.with_suffix('')} --tokenizer TOKENIZER"
    return f"make the set with: phalanx prepare INPUT... --out {name} --tokenizer TOKENIZER"


def _read_header(index: Path, path: AnyPath) -> tuple[np.dtype[Any], int, int]:
    """Return what the index of `path` tells: the type of the tokens, sequences, documents and one more."""
    with index.open("rb") as file:
        header = file.read(HEADER.size)
    if not header:
        raise InputError(f"{path} is empty; copy or prepare the set again")
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


def _check_size(path: AnyPath, expected: int) -> None:
    size = path.stat().st_size
    if size != expected:
        what = "is cut short" if size < expected else "is too long"
        raise InputError(f"{path} {what}: it has {size:,} bytes and should have {expected:,}; copy or prepare it again")


def _map(path: Path, dtype: str, offset: int, count: int) -> Array:
    with path.open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    mapping.madvise(mmap.MADV_RANDOM)  # samples lie all over a set: reading ahead costs megabytes for each
    return np.frombuffer(mapping, dtype, count, offset)


def _open_at(path: Path, size: int) -> BinaryIO:
    file = path.open("r+b" if path.exists() else "wb")
    if path.stat().st_size < size:
        raise InputError(f"{path} is cut short: {size:,} bytes were saved; start over with --force")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise InputError(f"{path} is being written by another process; wait for it or choose another name") from None
    file.truncate(size)
    file.seek(size)
    return file


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
