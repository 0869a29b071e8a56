"""Whether prepared sets are still what was written.

Opening a set costs the same whatever its size, so only a fixed number of blocks of its index is looked at then, and the
sizes and times of its files are compared with the manifest. A time that differs is no fault, as copies have times of
their own: it means that the checksums are compared. They are too when a set is used again or a run goes on: all of
those of a small file, and of a large one those of a fixed number of pieces. `phalanx data verify` reads everything.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
from rich.console import Console

from phalanx import mixing
from phalanx.data.indexed import IndexedDataset, set_paths, set_sizes
from phalanx.data.inputs import stamp
from phalanx.data.manifest import PIECE, SUFFIXES, Manifest, Suffix, Written, checksum, manifest_path, tokenizer_path
from phalanx.data.meter import Meter
from phalanx.data.order import Permutation
from phalanx.data.remote import AnyPath, RemotePath
from phalanx.data.remote_tokens import RemoteTokens
from phalanx.errors import InputError

PIECES = 16  # of a large file whose checksums are compared
SIDE_BY_SIDE = 4  # pieces of a remote file that are asked for
ROWS = 1 << 13  # of the index, looked at together
MEND = "copy it here again, or prepare it anew with --force"


def open_set(prefix: str | Path, sums: bool = False) -> IndexedDataset:
    """Return the set PREFIX, after the checks that cost little; with `sums`, checksums are compared whatever the times.

    Raises InputError that names the file and the place that are not as they were written.
    """
    manifest = _manifest(prefix)
    dataset = IndexedDataset(prefix)
    _check_index(dataset, _some)

    for suffix, path in zip(SUFFIXES, set_paths(prefix), strict=True):
        if not manifest:
            continue
        written, now = manifest.written.get(suffix), stamp(path)
        read = dataset.index if suffix == "idx" else path  # of a remote set the copy that is used
        if (sums or (written and written.time != now[1])) and (
            piece := _changed(read, now, manifest.sha256[suffix], written)
        ):
            raise _not_as_written(dataset, path, *piece)

    if isinstance(dataset.tokens, RemoteTokens):
        written = manifest.written.get("bin") if manifest else None
        pieces = (written.piece, written.sha256) if written else (PIECE, ())
        dataset.tokens.keep(stamp(dataset.tokens.path), *pieces)
    return dataset


def fingerprint(prefix: str | Path) -> str:
    """Return a text by which the tokens of a set are known from others, once its checksums are compared: the manifest's
    checksum, or of a set without a manifest how many tokens it has and a checksum over pieces of them. Raises
    InputError.
    """
    dataset = open_set(prefix, sums=True)
    if manifest := _manifest(prefix):
        return manifest.sha256["bin"]

    digest = hashlib.sha256()
    for _, block in _pieces(set_paths(prefix)[0], dataset.tokens.nbytes, PIECE):
        digest.update(block)
    return f"{len(dataset.tokens)} {digest.hexdigest()}"


def check_tokenizer(prefix: str | Path, manifest: Manifest) -> None:
    """Raise InputError unless the tokenizer that lies beside a set is the one that made it."""
    path = tokenizer_path(prefix)
    if not path.exists() or checksum(path) != manifest.tokenizer_sha256:
        raise InputError(f"{path} is {'not the tokenizer that made the set' if path.exists() else 'missing'}; {MEND}")


def verify(prefix: str, console: Console) -> str:
    """Read all of a set, and compare it with its manifest where it has one. Return a line that says what was checked.

    Raises InputError that names the file and the place of the first fault.
    """
    manifest = _manifest(prefix)
    if manifest:
        check_tokenizer(prefix, manifest)
    dataset = IndexedDataset(prefix)
    _check_index(dataset, range)

    paths, largest, done = set_paths(prefix), 0, 0
    with Meter(console, f"verifying {prefix}", sum(path.stat().st_size for path in paths)) as meter:
        for suffix, path in zip(SUFFIXES, paths, strict=True):
            for offset, block, sound in _compared(path, suffix, manifest):
                if not sound:
                    raise _not_as_written(dataset, path, offset, len(block) or path.stat().st_size)
                if suffix == "bin" and block:
                    largest = max(largest, int(np.frombuffer(block, dataset.unsigned).max()))
                    if manifest and largest >= manifest.vocab:
                        first = offset // dataset.unsigned.itemsize
                        dataset.read(first, first + len(block) // dataset.unsigned.itemsize, manifest.vocab)
                done += len(block)
                meter.show(done, len(block))

    counts = f"{len(dataset):,} sequences of {len(dataset.documents) - 1:,} documents in order"
    tokens = f"{len(dataset.tokens):,} tokens up to {largest:,}"
    if not manifest:
        return f"{prefix}: {counts}, {tokens}; it has no manifest, so there are no checksums to compare"
    return (
        f"{prefix}: all bytes have the manifest's checksums; {counts}, {tokens} of a vocabulary of {manifest.vocab:,}"
    )


def _manifest(prefix: str | Path) -> Manifest | None:
    """Return the manifest of a set that has one. InputError unless it speaks of files of the size that they have."""
    if not manifest_path(prefix).exists():
        return None
    manifest = Manifest.read(prefix)
    sizes = set_sizes(manifest.vocab, manifest.tokens, manifest.sequences, manifest.documents)
    for suffix, path, size in zip(SUFFIXES, set_paths(prefix), sizes, strict=True):
        if path.exists() and path.stat().st_size != size:
            raise InputError(f"{path} has {path.stat().st_size:,} bytes, {size:,} were written; {MEND}")
        written = manifest.written.get(suffix)
        if written and len(written.sha256) != -(-size // written.piece):
            raise InputError(f"{manifest_path(prefix)} is damaged: checksums of PREFIX.{suffix} are missing; {MEND}")
    return manifest


def _check_index(dataset: IndexedDataset, chosen: Callable[[int], Iterable[int]]) -> None:
    """Raise InputError unless sequences lie one behind the other in the .bin file, and documents in the sequences; of
    so many blocks of rows those that `chosen` gives are looked at.
    """
    path, size = set_paths(dataset.prefix)[1], dataset.tokens.itemsize
    for first in (ROWS * block for block in chosen(-(-len(dataset) // ROWS))):
        lengths = dataset.lengths[first : first + ROWS].astype(np.int64)  # bytes of int32 lengths may overflow
        starts = dataset.starts[first : first + ROWS + 1]
        nexts = np.append(starts, dataset.tokens.nbytes)[1 : len(lengths) + 1]
        wrong = (lengths < 0) | (starts[: len(lengths)] + lengths * size != nexts)
        wrong[0] |= first == 0 and starts[0] != 0
        if wrong.any():
            at = int(wrong.argmax())
            raise InputError(
                f"{path} is damaged: sequence {first + at:,} begins at byte {starts[at]:,} with {lengths[at]:,} tokens "
                f"of {size} bytes, and the next one at byte {nexts[at]:,}; {MEND}"
            )

    for first in (ROWS * block for block in chosen(-(-len(dataset.documents) // ROWS))):
        marks = dataset.documents[first : first + ROWS + 1]
        wrong = np.diff(marks, append=len(dataset)) < 0
        if wrong.any():
            at = int(wrong.argmax())
            raise InputError(
                f"{path} is damaged: document {first + at:,} begins with sequence {marks[at]:,} of {len(dataset):,}, "
                f"and the next one before it; {MEND}"
            )


def _some(count: int) -> Sequence[int]:
    """Return the numbers of all pieces, or of many a fixed choice that their count decides."""
    if count <= PIECES:
        return range(count)
    order = Permutation(count, mixing.key(count))
    return sorted(order(number) for number in range(PIECES))


@lru_cache(64)
def _changed(path: AnyPath, now: tuple[int, int], whole: str, written: Written | None) -> tuple[int, int] | None:
    """Return offset and size of the first of the pieces looked at that is not as written; None where all are. A file is
    read once while it has the stamp `now`. Where only the checksum of all of it is known, a large file is taken for
    sound.
    """
    if not written:
        return (0, now[0]) if now[0] <= PIECES * PIECE and checksum(path) != whole else None
    for number, block in _pieces(path, now[0], written.piece):
        if hashlib.sha256(block).hexdigest() != written.sha256[number]:
            return number * written.piece, len(block)
    return None


def _pieces(path: AnyPath, size: int, piece: int) -> Iterator[tuple[int, bytes]]:
    """Yield number and bytes of those pieces of a file of `size` bytes that are looked at."""
    numbers = _some(-(-size // piece))
    if isinstance(path, RemotePath):
        with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
            ends = [min((number + 1) * piece, size) for number in numbers]
            yield from zip(numbers, pool.map(path.read_range, [n * piece for n in numbers], ends), strict=True)
        return
    with path.open("rb") as file:
        for number in numbers:
            file.seek(number * piece)
            yield number, file.read(piece)


def _compared(path: AnyPath, suffix: Suffix, manifest: Manifest | None) -> Iterator[tuple[int, bytes, bool]]:
    """Yield the blocks of a file with their offsets, and whether they are as written. Where only the checksum of the
    whole is known, an empty block at the end says whether it agrees.
    """
    written = manifest.written.get(suffix) if manifest else None
    digest, size = hashlib.sha256(), written.piece if written else PIECE
    with path.open("rb") as file:
        for number, block in enumerate(iter(lambda: file.read(size), b"")):
            if not written:
                digest.update(block)
            yield number * size, block, not written or hashlib.sha256(block).hexdigest() == written.sha256[number]
    if manifest and not written:
        yield 0, b"", digest.hexdigest() == manifest.sha256[suffix]


def _not_as_written(dataset: IndexedDataset, path: AnyPath, offset: int, size: int) -> InputError:
    where = f"bytes {offset:,} to {offset + size - 1:,}"
    if path.suffix == ".bin":
        first, last = (dataset.document_at(at // dataset.tokens.itemsize) for at in (offset, offset + size - 1))
        where += f" (documents {first:,} to {last:,})"
    return InputError(f"{path} is not as it was written: {where} do not have the manifest's checksum; {MEND}")
