"""Files in object stores and on web servers, by URL: s3://, gs://, https:// and whatever else fsspec knows.

A `RemotePath` has that part of `pathlib.Path` which reading data needs, so readers take either. Nothing that a store
says is remembered between two questions, except the size of a file. Calls that fail for the moment are repeated after
growing delays; whatever fails for good is one `Resumable` error, as the same command may succeed later.
"""

import hashlib
import io
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

from phalanx.data.block_reader import BlockReader
from phalanx.data.remote_errors import passes, status_of, underlying
from phalanx.data.source_names import is_remote
from phalanx.errors import Resumable
from phalanx.foreign import brief

T = TypeVar("T")

DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds before a call is repeated
CONNECTIONS = 32  # to S3, side by side
VERSIONS = ("ETag", "etag", "md5Hash", "Content-MD5", "LastModified", "Last-Modified", "mtime", "created")


class Size(NamedTuple):
    """The answer of `stat`: the size of a remote file in bytes."""

    st_size: int


@dataclass(frozen=True)
class RemotePath:
    """A file, or a folder, in an object store or on a web server. Every method raises InputError."""

    url: str

    def __str__(self) -> str:
        """Return the URL without what follows a question mark: a signature is a secret, and differs each time."""
        return self.url.partition("?")[0] if self._on_the_web else self.url

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url.rstrip('/')}/{name}")

    @property
    def _on_the_web(self) -> bool:
        return self.url.startswith(("http://", "https://"))

    @property
    def name(self) -> str:
        """The last part of the path."""
        return str(self).rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The name's last suffix, with its dot."""
        return Path(self.name).suffix

    def with_suffix(self, suffix: str) -> "RemotePath":
        """Return the path with another last suffix."""
        return RemotePath(str(self).removesuffix(self.suffix) + suffix)

    def resolve(self) -> "RemotePath":
        """Return the path under the one name that its store has for it."""
        return self.call(lambda store, path: RemotePath(store.unstrip_protocol(path)))

    def is_file(self) -> bool:
        """Return whether there is such a file."""
        return not self.url.endswith("/") and self._type() == "file"

    def is_dir(self) -> bool:
        """Return whether it is a folder. Of the web's pages those are whose URLs end in a slash."""
        return self.url.endswith("/") if self._on_the_web else self._type() == "directory"

    def exists(self) -> bool:
        """Return whether there is such a file or folder."""
        return self._type() != ""

    def stat(self) -> Size:
        """Return the size of the file, as it was when it was first asked for."""
        return Size(self._size)

    def stamp(self) -> tuple[int, int]:
        """Return the size of the file in bytes and a number that differs once it is written to, made of its version."""
        info = self.info()
        return int(info.get("size") or 0), int(hashlib.sha256(_version(info).encode()).hexdigest()[:15], 16)

    def version(self) -> str:
        """Return what the store says by which one content of the file is known from another: its ETag or, of a web
        server without, the time of its last change. Empty where it says nothing.
        """
        return _version(self.info())

    def read_bytes(self) -> bytes:
        """Return all of the file."""
        return self.call(lambda store, path: bytes(store.cat_file(path)))

    def read_range(self, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to `stop`, exclusive."""

        def read(store: Any, path: str) -> bytes:
            content = bytes(store.cat_file(path, start=start, end=stop)) if stop > start else b""
            if len(content) != stop - start:
                raise OSError(
                    f"{len(content):,} bytes came for {stop - start:,} from byte {start:,} on; are parts of files sent?"
                )
            return content

        return self.call(read)

    def write_bytes(self, content: bytes) -> None:
        """Replace the file by one of this content."""
        self.call(lambda store, path: store.pipe_file(path, content))

    def upload(self, file: Path, progress: Callable[[int], None]) -> None:
        """Make the file a copy of one of this machine; `progress` is told how many bytes are sent, now and then."""
        from fsspec.callbacks import Callback

        shown = Callback(hooks={"progress": lambda size, value, **_: progress(value)})
        self.call(lambda store, path: store.put_file(str(file), path, callback=shown))

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        if not missing_ok or self.exists():
            self.call(lambda store, path: store.rm_file(path))

    def open(self, mode: str = "rb", buffering: int = -1) -> BinaryIO:
        """Open the file for reading from any place, in blocks that are read ahead. One of a web server that cannot send
        a part of a file is downloaded first, into a temporary file.
        """
        assert mode == "rb"
        if self._on_the_web and not self.call(_sends_parts):
            return self._downloaded()
        return cast(BinaryIO, io.BufferedReader(BlockReader(self.read_range, self.stamp()[0]), 1 << 20))

    def _downloaded(self) -> BinaryIO:
        file = tempfile.TemporaryFile()  # noqa: SIM115  (it is the caller's to close)

        def fetch(store: Any, path: str) -> None:
            file.seek(0)
            file.truncate()
            store.get_file(path, file)

        self.call(fetch)
        file.seek(0)
        return cast(BinaryIO, file)

    def files(self) -> list["RemotePath"]:
        """Return the files of the folder, at any depth, in order."""
        return self._found(lambda store, path: store.find(path))

    def matches(self) -> list["RemotePath"]:
        """Return the files that the URL means as a glob, in order."""
        return self._found(lambda store, path: store.glob(path))

    def _found(self, find: Callable[[Any, str], list[str]]) -> list["RemotePath"]:
        names = self.call(lambda store, path: [store.unstrip_protocol(name) for name in find(store, path)])
        return sorted((RemotePath(name) for name in names if not name.endswith("/")), key=str)

    def info(self) -> dict[str, Any]:
        """Return what the store says of the file or folder."""
        return self.call(lambda store, path: dict(store.info(path)))

    @cached_property
    def _size(self) -> int:
        return int(self.info().get("size") or 0)

    def _type(self) -> str:
        """Return "file", "directory", or nothing where there is neither."""

        def look(store: Any, path: str) -> str:
            try:
                return str(store.info(path)["type"])
            except FileNotFoundError as error:
                if underlying(error) is not error:
                    raise
                return ""

        return self.call(look)

    def call(self, action: Callable[[Any, str], T]) -> T:
        """Return what an action does with the file's store, a filesystem of fsspec, and the file's path there. Errors
        that may pass are tried again, others raise Resumable.
        """
        for delay in (*DELAYS, None):
            try:
                return action(*_store(self.url))
            except (Resumable, MemoryError):
                raise
            except Exception as raised:
                error = underlying(raised)
                if delay is None or not passes(error):
                    raise Resumable(self._told(error)) from raised
                print(f"phalanx: {self}: {brief(error)}; trying again in {delay:g} s", file=sys.stderr, flush=True)
                time.sleep(delay)
        raise AssertionError

    def _told(self, error: Exception) -> str:
        """Return the line that tells an error."""
        status, name = status_of(error), type(error).__name__
        if isinstance(error, FileNotFoundError):
            return f"{self} does not exist"
        if isinstance(error, PermissionError) or status in (401, 403) or "Credentials" in name:
            scheme = self.url.partition(":")[0]
            return f"{self} may not be read or written ({brief(error)}); check the credentials for {scheme}://"
        tried = f", {len(DELAYS) + 1} times" if passes(error) else ""
        return f"{self} cannot be read or written{tried} ({name}: {brief(error)})"


AnyPath = Path | RemotePath


def path_of(name: str) -> AnyPath:
    """Return the path that a name of data means: on this machine or, of a URL, elsewhere."""
    return RemotePath(name) if is_remote(name) else Path(name)


def is_glob(name: str) -> bool:
    """Return whether a URL means several files. A question mark does not: behind it stands what a server is told."""
    return re.search(r"[*\[]", name) is not None


def _version(info: dict[str, Any]) -> str:
    return next((str(info[key]).strip('"') for key in VERSIONS if info.get(key)), "")


def _store(url: str) -> tuple[Any, str]:
    """Return the filesystem of a URL, made once in a process and again after a fork, and the path in it."""
    scheme = url.partition(":")[0]
    if scheme in ("file", "local"):
        raise Resumable(f"{url} is a path of this machine; leave out {scheme}://")
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise Resumable(
            f"{scheme}:// needs the package fsspec: pip install phalanx[remote] {_package(scheme)}"
        ) from None

    try:
        store, path = url_to_fs(url, use_listings_cache=False, **_options(scheme))
    except ImportError as error:
        name = error.__cause__.name if isinstance(error.__cause__, ImportError) else error.name
        raise Resumable(f"{scheme}:// needs the package {name or brief(error)}: pip install {name}") from error
    except ValueError as error:
        if "not known" not in str(error):
            raise
        raise Resumable(f"{scheme}:// is no scheme that fsspec knows; give s3://, gs:// or https://") from error
    return store, str(path)


def _options(scheme: str) -> dict[str, Any]:
    """Return what the filesystem of a scheme is told. By default S3 is asked by ten connections at most, and all of a
    file of a web server has to come in five minutes: here a sign of life every minute will do.
    """
    if scheme in ("s3", "s3a"):
        return {"config_kwargs": {"max_pool_connections": CONNECTIONS}}
    if scheme in ("http", "https"):
        from aiohttp import ClientTimeout

        return {"client_kwargs": {"timeout": ClientTimeout(total=None, sock_connect=15, sock_read=60)}}
    return {}


def _sends_parts(store: Any, path: str) -> bool:
    """Return whether a web server sends a part of a file that is asked for."""
    try:
        with store.open(path, cache_type="none") as file:
            file.seek(1)
            return len(file.read(1)) == 1
    except ValueError:
        return False


def _package(scheme: str) -> str:
    """Return the package of a scheme, as far as it is one of those that most people use."""
    return {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}.get(scheme, "aiohttp")
