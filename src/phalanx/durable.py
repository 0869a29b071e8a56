"""Files that are whole or absent, whatever happens while they are written.

A file is written under a ".partial" name, forced to the disk, and only then renamed: the rename is atomic, so a reader
finds the old content or the new, never half of one. The directory is forced as well, or a power cut could undo the
rename.
"""

import os
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Put `content` at `path`, replacing what is there in one step."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    rename(partial, path)


def rename(source: Path, target: Path) -> None:
    """Rename within one directory, and see it through to the disk."""
    source.replace(target)
    sync(target.parent)


def sync(directory: Path) -> None:
    """Force the names in a directory to the disk."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
