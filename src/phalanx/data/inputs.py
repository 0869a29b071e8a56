"""Input files: which ones the user means, and what tells that one has changed."""

import glob
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from phalanx.errors import InputError

PACKED = (".gz", ".zst", ".xz")
TEXT = (".txt", ".text")
JSONL = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet",)


class Resumable(InputError):
    """Bad input that the same preparation, of the same files, may get over: what it has saved is of use."""


def find_files(inputs: Sequence[str], output: Iterable[Path] = ()) -> list[Path]:
    """Return the files that paths, folders and globs mean, each once, in the order given; folders and globs are sorted.

    A folder gives its text, JSONL and Parquet files at any depth, packed or not. Folders and globs do not give what is
    `output`. Raises InputError when one is missing.
    """
    own = {path.resolve() for path in output}
    matches: dict[Path, None] = {}
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            files = [p for p in path.rglob("*") if p.is_file() and kind(p) in (*TEXT, *JSONL, *PARQUET)]
        elif path.is_file():
            files = [path]
        else:
            files = [p for p in map(Path, _matches(name)) if p.is_file()]

        if not path.is_file():
            files = sorted(p for p in files if p.resolve() not in own)
        if not files:
            known = " ".join((*TEXT, *JSONL, *PARQUET))
            why = f"holds no {known} files" if path.is_dir() else "is no file, folder or glob that matches anything"
            raise InputError(f"input {name!r} {why}")

        matches.update(dict.fromkeys(files))
    return list(matches)


def _matches(pattern: str) -> Iterator[str]:
    """Yield the paths that a glob means, where ** stands for any folders that are not hidden. Links to folders are
    followed, but no folder is entered twice: glob.glob would walk a link that leads back for ever.
    """
    parts = pattern.split("/")
    if "**" not in parts:
        yield from glob.iglob(pattern)  # noqa: PTH207  (Path.glob takes no absolute pattern)
        return
    at = parts.index("**")
    above, below = "/".join(parts[:at]), "/".join(parts[at + 1 :]) or "*"
    for top in glob.iglob(f"{above}/") if at else [""]:  # noqa: PTH207
        for folder in _folders(top):
            yield from _matches(glob.escape(folder) + below)


def _folders(top: str) -> Iterator[str]:
    """Yield a folder and all below it that are not hidden, each once, with a slash at its end; links come last."""
    seen: set[tuple[int, int]] = set()
    waiting = deque([top])
    while waiting:
        folder = waiting.popleft()
        about = os.stat(folder or os.curdir)  # noqa: PTH116
        if (about.st_dev, about.st_ino) in seen:
            continue
        seen.add((about.st_dev, about.st_ino))
        yield folder
        with os.scandir(folder or os.curdir) as entries:
            below = [entry for entry in entries if not entry.name.startswith(".") and Path(entry.path).is_dir()]
        for entry in below:
            (waiting.append if entry.is_symlink() else waiting.appendleft)(f"{folder}{entry.name}/")


def stamp(path: Path) -> tuple[int, int]:
    """Return a file's size in bytes and time of the last change in nanoseconds: one differs once it is written to."""
    about = path.stat()
    return about.st_size, about.st_mtime_ns


def check_unchanged(path: Path, before: tuple[int, int]) -> None:
    """Raise InputError if a file was written to since it had the stamp `before`."""
    if (now := stamp(path)) != before:
        raise InputError(
            f"{path} was written to while it was read ({before[0]:,} bytes before, {now[0]:,} now); prepare a copy of "
            "it, or wait until nothing writes it any more and start anew with --force"
        )


def kind(path: Path) -> str:
    """Return the suffix that tells what is in a file, whatever packs it."""
    return (path.with_suffix("") if path.suffix.lower() in PACKED else path).suffix.lower()
