"""Input files: which ones the user means, and their bytes, unpacked."""

import glob
import gzip
import io
import lzma
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from phalanx.errors import InputError

PACKED = (".gz", ".zst", ".xz")
TEXT = (".txt", ".text")
JSONL = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet",)
BOM = b"\xef\xbb\xbf"
BLOCK = 1 << 20


def find_files(inputs: Sequence[str], output: Iterable[Path] = ()) -> list[Path]:
    """The files that paths, folders and globs mean, each once, in the order given; folders and globs are sorted.

    A folder gives its text, JSONL and Parquet files at any depth, packed or not. Folders and globs do not give what is
    `output`. Raises InputError when one is missing.
    """
    own = {path.resolve() for path in output}
    found: dict[Path, None] = {}
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            files = [p for p in path.rglob("*") if p.is_file() and kind(p) in (*TEXT, *JSONL, *PARQUET)]
        elif path.is_file():
            files = [path]
        else:
            matches = glob.glob(name, recursive=True)  # noqa: PTH207  (Path.glob takes no absolute pattern)
            files = [p for p in map(Path, matches) if p.is_file()]
        if not path.is_file():
            files = sorted(p for p in files if p.resolve() not in own)
        if not files:
            known = " ".join((*TEXT, *JSONL, *PARQUET))
            why = f"holds no {known} files" if path.is_dir() else "is no file, folder or glob that matches anything"
            raise InputError(f"input {name!r} {why}")
        found.update(dict.fromkeys(files))
    return list(found)


def kind(path: Path) -> str:
    """The suffix that tells what is in a file, whatever packs it."""
    return (path.with_suffix("") if path.suffix.lower() in PACKED else path).suffix.lower()


@contextmanager
def unpacked(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The stream of a file's unpacked bytes, and the file itself, whose position tells how much of it is read.

    Raises InputError, at any time while it is read, when the packed bytes are damaged.
    """
    suffix = path.suffix.lower()
    with path.open("rb", BLOCK) as file:
        try:
            yield _unpack(file, suffix), file
        except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstandard.ZstdError, EOFError) as error:
            raise InputError(f"{path} is damaged, {suffix} cannot unpack it: {error}") from error


def skip(stream: BinaryIO, offset: int) -> None:
    """Move from the beginning to an offset; a packed stream must be unpacked up to there."""
    if stream.seekable():
        stream.seek(offset)
    while (left := offset - stream.tell()) > 0 and stream.read(min(left, BLOCK)):
        pass


def _unpack(file: BinaryIO, suffix: str) -> BinaryIO:
    if suffix == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if suffix == ".xz":
        return cast(BinaryIO, lzma.LZMAFile(file))
    if suffix == ".zst":
        return cast(BinaryIO, io.BufferedReader(_Zstandard(file), BLOCK))
    return file


class _Zstandard(io.RawIOBase):
    """Unpacks zstandard frames; unlike the library's own reader it notices when the file is cut short."""

    FEED = 1 << 10  # a kilobyte unpacks to 45 MB at most

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._begun = False
        self._ready = memoryview(b"")
        self._position = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            packed = self._frame.unused_data if self._frame.eof else b""
            packed = packed or self._file.read(self.FEED)
            if not packed:
                if self._begun and not self._frame.eof:
                    raise EOFError("it ends inside a frame")
                return 0
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._begun = True
            self._ready = memoryview(self._frame.decompress(packed))
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        self._position += count
        return count
