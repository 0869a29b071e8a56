"""Copies of remote files in the cache: small ones whole, of the tokens of a set whatever pieces came by now.

A copy is named by its URL and by the version that the store tells, so a file that was replaced has another. Processes
share it: one of a machine downloads, and all map the same pages. The cache may be deleted; a process that has mapped a
copy keeps it.
"""

import fcntl
import hashlib
import mmap
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from phalanx import cache, durable
from phalanx.data.remote import RemotePath
from phalanx.errors import InputError

GIB = 100.0  # of all sets in the cache, unless PHALANX_CACHE_GIB says otherwise
TOLD = 100_000_000  # bytes: whoever waits for more is told
SPARE = 2 << 30  # bytes of a disk that are left free


def local_copy(path: RemotePath) -> Path:
    """Return the copy of a remote file in the cache, downloaded where it is not there yet. Raises InputError."""
    size, version = path.stamp()
    copy = _folder(path) / f"{version:x}-{path.name}"
    with _locked(copy):
        if not copy.is_file() or copy.stat().st_size != size:
            if size > TOLD:
                print(f"phalanx: {path}: {size / 1e9:.1f} GB come into {copy.parent}", file=sys.stderr, flush=True)
            content = copy.with_name(copy.name + ".partial")
            with path.open("rb") as source, content.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
                target.flush()
                os.fsync(target.fileno())
            if size and content.stat().st_size != size:
                raise InputError(f"{path} was written to while it was read; wait until nothing writes it any more")
            durable.rename(content, copy)
            _forget_others(copy)
    return copy


class PieceCache:
    """A file of this machine that fills with the pieces of a remote one, in a thread, while others are read there.

    `sums` are the SHA-256 of each of the pieces, by which they are checked when they come, or nothing.
    """

    def __init__(self, path: RemotePath, stamp: tuple[int, int], piece: int, sums: Sequence[str]) -> None:
        self.path, self.size, self.piece, self.sums = path, stamp[0], piece, sums
        self.file = _folder(path) / f"{stamp[1]:x}-{path.name}"
        self.count = -(-self.size // piece)
        self.fault: InputError | None = None  # a piece that is not as it was written
        self._begun = False
        with _locked(self.file):
            _forget_others(self.file)
            self.content = _mapped(self.file, self.size)
            checked = "checked" if sums else "unchecked"
            self._present = _mapped(self.file.with_name(f"{self.file.name}.{piece}.{checked}"), self.count)

    def read(self, start: int, stop: int) -> memoryview | None:
        """Return the bytes from `start` to `stop`, exclusive, or None where some have not come yet. Raises InputError
        once a piece came that is not as it was written.
        """
        if self.fault:
            raise self.fault
        first, last = start // self.piece, -(-stop // self.piece)
        if self._present[first:last].count(1) < last - first:
            return None
        return memoryview(self.content)[start:stop]

    def fill(self) -> None:
        """Begin to fetch what is absent, in a thread; of several processes one does it at a time."""
        if not self._begun:
            self._begun = True
            threading.Thread(target=self._fill, name="fill", daemon=True).start()

    def _fill(self) -> None:
        try:
            with _locked(self.file, "fill"), self.path.open("rb") as source, self.file.open("r+b") as target:
                for number in range(self.count):
                    if not self._present[number]:
                        self._fetch(number, source, target)
        except InputError:
            if self.fault is None:  # the store's: whoever reads asks it again, and tells that
                self._begun = False
        except (OSError, RuntimeError):  # the disk is full, or the process ends
            pass

    def _fetch(self, number: int, source: BinaryIO, target: BinaryIO) -> None:
        start = number * self.piece
        source.seek(start)
        content = source.read(min(self.piece, self.size - start))
        if self.sums and hashlib.sha256(content).hexdigest() != self.sums[number]:
            last = start + len(content) - 1
            self.fault = InputError(
                f"{self.path} is not as it was written: bytes {start:,} to {last:,} do not have the manifest's "
                "checksum; copy it there again, or prepare it anew with --force"
            )
            raise self.fault
        os.pwrite(target.fileno(), content, start)
        os.fdatasync(target.fileno())  # before it is said to be there
        self._present[number] = 1


def has_room(path: RemotePath, size: int) -> bool:
    """Return whether the cache takes a file of `size` bytes, after those that were used longest ago made room."""
    most, own = _limit(), _folder(path)
    if size > most:
        return False

    with _locked(own.parent / "room"):  # or what one looks at another would remove
        others = [folder for folder in own.parent.iterdir() if folder.is_dir() and folder != own]
        held = {folder: _disk(folder) for folder in sorted(others, key=lambda each: each.stat().st_mtime)}
        for folder in [*held]:
            if sum(held.values()) + size <= most:
                break
            shutil.rmtree(folder, ignore_errors=True)
            del held[folder]
    return shutil.disk_usage(own).free - (size - _disk(own)) > SPARE


def _forget_others(copy: Path) -> None:
    """Remove the copies of other versions of the file."""
    version = copy.name.partition("-")[0]
    for file in copy.parent.iterdir():
        if not file.name.startswith(f"{version}-"):
            file.unlink(missing_ok=True)


def _limit() -> float:
    text = os.environ.get("PHALANX_CACHE_GIB", "")
    try:
        return float(text or GIB) * 2**30
    except ValueError:
        raise InputError(f"PHALANX_CACHE_GIB={text} is no number") from None


def _disk(folder: Path) -> int:
    """Return the bytes of the disk that the files of a folder take."""
    taken = 0
    for file in folder.iterdir():
        with suppress(FileNotFoundError):  # what was being written has its name by now
            taken += file.stat().st_blocks * 512
    return taken


def _folder(path: RemotePath) -> Path:
    """Return the folder for the copies of a remote file, which is marked as used now."""
    folder = cache.home() / "remote" / hashlib.sha256(str(path).encode()).hexdigest()[:24]
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    return folder


@contextmanager
def _locked(file: Path, what: str = "") -> Iterator[None]:
    """Let one process at a time into the block; the others wait."""
    with file.with_name(f"{file.name}.{what}lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _mapped(file: Path, size: int) -> mmap.mmap:
    """Map a file of `size` bytes, made of zeros where it is not there; only what is written takes a place."""
    with file.open("r+b" if file.exists() else "w+b") as opened:
        if os.fstat(opened.fileno()).st_size != size:
            opened.truncate(0)
            opened.truncate(size)
        return mmap.mmap(opened.fileno(), size)
