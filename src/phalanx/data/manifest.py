"""What a prepared set is made of: PREFIX.manifest.json beside the .bin/.idx pair, and PREFIX.tokenizer.json with it.

The manifest is written last, so a set with a manifest is whole. Its first part, the request, is all that decides the
set's bytes: an equal request needs no new work.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from phalanx import durable
from phalanx.errors import InputError

Checksums = dict[Literal["bin", "idx"], str]


class InputFile(BaseModel):
    """An input file as it was read."""

    model_config = ConfigDict(frozen=True)

    path: str
    bytes: int
    sha256: str


class Request(BaseModel):
    """What decides a set's bytes."""

    model_config = ConfigDict(frozen=True)

    sources: tuple[InputFile, ...]
    document: str
    key: str
    sentences: bool
    append_eod: bool
    tokenizer_sha256: str


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
    sha256: Checksums

    @classmethod
    def read(cls, prefix: str | Path) -> Self:
        """The manifest of the set PREFIX. Raises InputError when there is none that can be read."""
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
        durable.write(manifest_path(prefix), self.model_dump_json(indent=1).encode() + b"\n")


def manifest_path(prefix: str | Path) -> Path:
    """Where the manifest of a set lies."""
    return Path(f"{prefix}.manifest.json")


def tokenizer_path(prefix: str | Path) -> Path:
    """Where the copy of its tokenizer lies."""
    return Path(f"{prefix}.tokenizer.json")


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_sources(paths: list[Path]) -> tuple[InputFile, ...]:
    """The sources with sizes and checksums, several files at a time."""
    with ThreadPoolExecutor() as pool:
        sums = pool.map(checksum, paths)
        return tuple(
            InputFile(path=str(path), bytes=path.stat().st_size, sha256=sha256)
            for path, sha256 in zip(paths, sums, strict=True)
        )
