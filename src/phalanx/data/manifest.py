"""The manifest of a prepared set: PREFIX.manifest.json beside the .bin/.idx pair, and PREFIX.tokenizer.json with it.

The manifest is written last, so a set with a manifest is whole. Its first part, the request, is all that decides the
set's bytes: an equal request needs no new work.
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from phalanx import durable
from phalanx.data.inputs import check_unchanged, stamp
from phalanx.data.remote import AnyPath, RemotePath, path_of
from phalanx.errors import InputError

Suffix = Literal["bin", "idx"]
Checksums = dict[Suffix, str]
SUFFIXES: tuple[Suffix, Suffix] = ("bin", "idx")
PIECE = 16 << 20  # bytes of a file that have a checksum of their own, so that a part of a large file can be checked


class InputFile(BaseModel):
    """An input file as it was read. A remote file has the version that its store tells, and then no checksum: that
    would have it read twice.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    bytes: int
    sha256: str
    version: str = ""

    @model_serializer(mode="wrap")
    def _without_blanks(self, serialized: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialized(self)
        return content if self.version else {key: value for key, value in content.items() if key != "version"}


class Written(BaseModel):
    """A file as it was left: the time of its last change in nanoseconds, and the SHA-256 of each `piece` bytes."""

    model_config = ConfigDict(frozen=True)

    time: int
    piece: int = Field(ge=8, multiple_of=8)
    sha256: tuple[str, ...]


class Request(BaseModel):
    """The request for a set: all that decides its bytes."""

    model_config = ConfigDict(frozen=True)

    sources: tuple[InputFile, ...]
    document: str
    key: str
    sentences: bool
    append_eod: bool
    tokenizer_sha256: str
    encoding: str = "utf-8"  # of plain text
    begin: tuple[int, ...] = ()  # tokens before each document


class Manifest(Request):
    """A finished set: its request, its tokenizer, its counts and the checksums of its files."""

    tokenizer: str
    vocab: int
    eod: int | None
    tokens: int
    sequences: int
    documents: int
    text_bytes: int
    malformed: int
    malformed_first: tuple[str, ...]
    undecodable: int = 0  # of the malformed ones: plain text in another encoding
    blank: int = 0  # documents of white space alone, which were left out
    sha256: Checksums
    written: dict[Suffix, Written] = {}  # how the files were left; sets of earlier versions do not tell

    @classmethod
    def read(cls, prefix: str | Path) -> Self:
        """Return the manifest of the set PREFIX. Raises InputError when there is none that can be read."""
        path = manifest_path(prefix)
        if not path.exists():
            raise InputError(f"{path} is missing, so {prefix} is no finished set; run phalanx prepare --out {prefix}")
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise InputError(f"{path} is damaged ({where}: {first['msg']}); prepare the set again") from error

    @property
    def request(self) -> Request:
        """The part that decides the set's bytes."""
        return Request(**{name: getattr(self, name) for name in Request.model_fields})

    def write(self, prefix: str | Path) -> None:
        """Write PREFIX.manifest.json in one piece."""
        excluded = None if self.begin else {"begin"}  # as before there were such tokens
        content = self.model_dump_json(indent=1, exclude=excluded).encode() + b"\n"
        path = manifest_path(prefix)
        if isinstance(path, RemotePath):
            path.write_bytes(content)
        else:
            durable.write(path, content)


def manifest_path(prefix: str | Path) -> AnyPath:
    """Return where the manifest of a set lies."""
    return path_of(f"{prefix}.manifest.json")


def tokenizer_path(prefix: str | Path) -> AnyPath:
    """Return where the copy of its tokenizer lies."""
    return path_of(f"{prefix}.tokenizer.json")


def checksum(path: AnyPath) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(cast(BufferedReader, file), "sha256").hexdigest()


def describe_written(path: AnyPath) -> tuple[str, Written]:
    """Return the SHA-256 of a file that is finished, and what tells later whether it is still as it was."""
    whole, pieces = hashlib.sha256(), []
    with path.open("rb") as file:
        while block := file.read(PIECE):
            whole.update(block)
            pieces.append(hashlib.sha256(block).hexdigest())
    return whole.hexdigest(), Written(time=stamp(path)[1], piece=PIECE, sha256=tuple(pieces))


def describe_sources(stamps: Mapping[AnyPath, tuple[int, int]]) -> tuple[InputFile, ...]:
    """Return the sources with sizes and checksums or versions, read side by side. InputError if one is written to
    meanwhile.
    """

    def describe(path: AnyPath) -> InputFile:
        size, version = stamps[path][0], path.version() if isinstance(path, RemotePath) else ""
        return InputFile(path=str(path), bytes=size, sha256="" if version else checksum(path), version=version)

    with ThreadPoolExecutor() as pool:
        described = tuple(pool.map(describe, stamps))
        for _ in pool.map(check_unchanged, stamps.keys(), stamps.values()):
            pass
    return described
