"""Input files: which ones the user means, and what tells that one has changed."""

import glob
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from phalanx.data import hub_datasets
from phalanx.data.remote import AnyPath, RemotePath, is_glob, path_of
from phalanx.data.saved_datasets import is_saved, saved_files
from phalanx.errors import InputError

PACKED = (".gz", ".zst", ".xz")
TEXT = (".txt", ".text")
JSONL = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet",)
ARROW = (".arrow",)
KNOWN = (*TEXT, *JSONL, *PARQUET, *ARROW)


def find_files(inputs: Sequence[str], output: Iterable[AnyPath] = (), split: str = "") -> list[AnyPath]:
    """Return the files that inputs mean, each once, in the order given; those of folders and globs are sorted.

    An input is a path, a folder or a glob, here or as a URL, or a data set: a folder saved by `datasets`, or
    hf-dataset:org/name. A folder gives its text, JSONL, Parquet and Arrow files at any depth, packed or not; a data set
    those of `split`, by default "train". Folders and globs do not give what is `output`. Raises InputError when one is
    missing, and for a split where no input is a data set.
    """
    own = {path.resolve() for path in output}
    matches: dict[AnyPath, None] = {}
    splits = False
    for name in inputs:
        path = path_of(name)
        if hub_datasets.is_named(name):
            files: list[AnyPath] = [*hub_datasets.split_files(name, split, _is_known)]
            splits = True
        elif path.is_dir() and is_saved(path):
            files, splits = saved_files(path, split), True
        elif path.is_file():
            files = [path]
        else:
            files = [file for file in _inside(path) if file.resolve() not in own]

        if not files:
            why = (
                f"holds no {' '.join(KNOWN)} files"
                if path.is_dir()
                else "is no file, folder or glob that matches anything"
            )
            raise InputError(f"input {name!r} {why}")
        matches.update(dict.fromkeys(files))

    if split and not splits:
        raise InputError(
            f"--split {split}: none of the inputs has splits; leave it out, or name the files of the split"
        )
    return list(matches)


def _inside(path: AnyPath) -> list[AnyPath]:
    """Return the files of a folder that are known, or those that match a glob, in order."""
    if isinstance(path, RemotePath):
        if is_glob(path.url):
            return [*path.matches()]
        return [file for file in path.files() if _is_known(file)] if path.is_dir() else []
    if path.is_dir():
        return [*sorted(file for file in path.rglob("*") if file.is_file() and _is_known(file))]
    return [*sorted(file for file in map(Path, _matches(str(path))) if file.is_file())]


def _is_known(path: AnyPath) -> bool:
    return kind(path) in KNOWN


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


def stamp(path: AnyPath) -> tuple[int, int]:
    """Return a file's size in bytes and time of the last change in nanoseconds, or of a remote file a number made of
    its version: one differs once it is written to.
    """
    if isinstance(path, RemotePath):
        return path.stamp()
    about = path.stat()
    return about.st_size, about.st_mtime_ns


def check_unchanged(path: AnyPath, before: tuple[int, int]) -> None:
    """Raise InputError if a file was written to since it had the stamp `before`."""
    if (now := stamp(path)) != before:
        raise InputError(
            f"{path} was written to while it was read ({before[0]:,} bytes before, {now[0]:,} now); prepare a copy of "
            "it, or wait until nothing writes it any more and start anew with --force"
        )


def kind(path: AnyPath) -> str:
    """Return the suffix that tells what is in a file, whatever packs it."""
    return (path.with_suffix("") if path.suffix.lower() in PACKED else path).suffix.lower()
