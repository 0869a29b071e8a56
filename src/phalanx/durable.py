"""Files that are whole or absent, whatever happens while they are written.

A file is written under a ".partial" name, forced to the disk, and only then renamed: the rename is atomic, so a reader
finds the old content or the new, never half of one. The directory is forced as well, or a power cut could undo the
rename.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phalanx.errors import InputError


def write(path: Path, content: bytes) -> None:
    """Put `content` at `path`, replacing what is there in one step."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # before the name: a crash leaves the old content or the new, whole
    rename(partial, path)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a folder to fill, which becomes `path` at the end of the block, or is removed where that fails.

    Its own name is one that nothing had: what lies beside `path` stays. InputError where `path` is there already and is
    no empty folder.
    """
    if _taken(path):
        raise _there_already(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f"{path.name}.", suffix=".partial", dir=path.parent))
    try:
        made.chmod(0o777 & ~_umask())
        yield made
        sync(made)
        rename(made, path)
    except BaseException as error:
        shutil.rmtree(made, ignore_errors=True)
        if isinstance(error, OSError) and _taken(path):  # another command has made it meanwhile
            raise _there_already(path) from error
        raise


def _taken(path: Path) -> bool:
    """Return whether there is something at `path` that is no empty folder."""
    empty = path.is_dir() and not any(path.iterdir())
    return (path.exists() or path.is_symlink()) and not empty


def _there_already(path: Path) -> InputError:
    return InputError(f"{path} is there already; give another folder")


def _umask() -> int:
    """Return the process's umask, which can be asked for only by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


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
