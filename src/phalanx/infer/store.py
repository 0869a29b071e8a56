"""What is worth keeping between two starts: graphs that took long to make, and which backend was fastest here.

It lies under PHALANX_CACHE, by default ~/.cache/phalanx, named by the weights it was made of; it may be deleted.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from phalanx.errors import InputError
from phalanx.infer.loaded import Loaded


def folder() -> Path:
    """Where it lies; made where it is absent."""
    home = (
        os.environ.get("PHALANX_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phalanx"
    )
    made = Path(home)
    made.mkdir(mode=0o700, parents=True, exist_ok=True)
    seen = made.stat()
    if seen.st_uid != os.geteuid():  # what lies there is run
        raise InputError(f"{made} belongs to somebody else; let PHALANX_CACHE name a folder of your own")
    if seen.st_mode & 0o022:
        made.chmod(0o700)
    return made


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """One process at a time makes `file`; the others wait, and find it."""
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def key(loaded: Loaded, *facts: object) -> str:
    """A name for what is made of a model's weights by these facts."""
    digest = hashlib.sha256(repr((loaded.config.model, *facts, versions("phalanx", "torch"))).encode())
    for name, tensor in sorted(loaded.model.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(flat.numpy().data)
    return digest.hexdigest()[:24]


def versions(*packages: str) -> dict[str, str]:
    """Version of each package that is installed, by its name."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
