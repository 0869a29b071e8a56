"""The bytes of a file, whatever packs it and whatever its encoding: always unpacked and in UTF-8."""

import codecs
import gzip
import io
import lzma
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import zstandard

from phalanx.data.remote import AnyPath
from phalanx.errors import InputError

BOM = b"\xef\xbb\xbf"
BLOCK = 1 << 20
UTF_8 = "utf-8"
WINDOW = 1 << 31  # bytes of a zstandard window, held in memory: that of zstd --long=31, the most that it can write
UNDECODABLE = "phalanx.undecodable"

codecs.register_error(UNDECODABLE, lambda error: ("\udcff", cast(UnicodeDecodeError, error).end))


def known_encoding(name: str) -> str:
    """Return Python's own name of a text encoding. Raises InputError for one that it does not know."""
    try:
        "".encode(name)
        codecs.getincrementaldecoder(name)(UNDECODABLE).decode(b"", final=True)
        return codecs.lookup(name).name
    except (LookupError, ValueError):
        raise InputError(f"--encoding {name} is not known; give one such as latin-1, cp1252 or utf-16") from None


@contextmanager
def unpacked(path: AnyPath, encoding: str = UTF_8) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Open the stream of a file's unpacked bytes, and the file itself, whose position tells how much of it is read.

    Text in another `encoding` comes as UTF-8. Raises InputError, at any time while it is read, when the packed bytes
    are damaged.
    """
    suffix = path.suffix.lower()
    with path.open("rb", BLOCK) as file:
        try:
            stream = _unpack(file, suffix)
            yield stream if encoding == UTF_8 else _buffered(_Transcoded(stream, encoding, path)), file
        except zstandard.ZstdError as error:
            if "too much memory" in str(error):
                raise InputError(
                    f"{path} needs a zstandard window of more than {WINDOW >> 30} GiB; "
                    "pack it anew with a smaller one, such as that of zstd --long=27"
                ) from error
            raise InputError(f"{path} is damaged, {suffix} cannot unpack it: {error}") from error
        except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError) as error:
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
        return _buffered(_Zstandard(file))
    return file


def _buffered(stream: io.RawIOBase) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(stream, BLOCK))


class _Made(io.RawIOBase, ABC):
    """A stream of bytes that are made from those of another."""

    def __init__(self) -> None:
        self._ready = memoryview(b"")
        self._position = 0

    @abstractmethod
    def _more(self) -> bytes | None:
        """Return some of the bytes that come next, perhaps none yet; None at the end."""

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready:
            if (made := self._more()) is None:
                return 0
            self._ready = memoryview(made)

        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        self._position += count
        return count


class _Zstandard(_Made):
    """Unpacks zstandard frames; unlike the library's own reader it notices when the file is cut short."""

    FEED = 1 << 10  # a kilobyte unpacks to 45 MB at most

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._frame = _frame()
        self._begun = False

    def _more(self) -> bytes | None:
        packed = self._frame.unused_data if self._frame.eof else b""
        packed = packed or self._file.read(self.FEED)
        if not packed:
            if self._begun and not self._frame.eof:
                raise EOFError("it ends inside a frame")
            return None

        if self._frame.eof:
            self._frame = _frame()
        self._begun = True
        return bytes(self._frame.decompress(packed))


def _frame() -> Any:
    return zstandard.ZstdDecompressor(max_window_size=WINDOW).decompressobj()


class _Transcoded(_Made):
    """Text of another encoding as UTF-8. Where bytes cannot be decoded, bytes come that are not UTF-8 either, so that
    whoever reads the line finds its fault. InputError for a stream that cannot be of the encoding as a whole.
    """

    def __init__(self, stream: BinaryIO, encoding: str, path: AnyPath) -> None:
        super().__init__()
        self._stream: BinaryIO | None = stream
        self._encoding, self._path = encoding, path
        self._decoder = codecs.getincrementaldecoder(encoding)(UNDECODABLE)

    def _more(self) -> bytes | None:
        if self._stream is None:
            return None
        block = self._stream.read(BLOCK)
        if not block:
            self._stream = None
        try:
            text = self._decoder.decode(block, final=not block)
        except UnicodeError as error:  # a missing byte order mark; what else is wrong comes as UNDECODABLE
            name = self._encoding
            raise InputError(f"{self._path} is not {name}: {error}; try {name}-le or {name}-be") from error
        return text.encode(UTF_8, "surrogatepass")
