"""The artifact cache: files kept between two starts, such as graphs that took long to make and measured choices.

It lies under PHALANX_CACHE, by default ~/.cache/phalanx. Each file is named by all that it was made of (the model's
description and weights, versions), so that what another version made is not read. The folder may be deleted.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from phalanx import cache
from phalanx.errors import InputError
from phalanx.infer.bundle import ModelBundle


def folder() -> Path:
    """Return the cache's folder, which is made where it is absent. InputError where it is another user's."""
    made = cache.home()
    made.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = made.stat()
    if status.st_uid != os.geteuid():  # what lies there is run
        raise InputError(f"{made} belongs to somebody else; let PHALANX_CACHE name a folder of your own")
    if status.st_mode & 0o022:
        made.chmod(0o700)
    return made


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Let one process at a time make `file`; the others wait, and find it."""
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def key(bundle: ModelBundle, *facts: object) -> str:
    """Return a name for what is made of a model's description and weights by these facts."""
    digest = hashlib.sha256(repr((bundle.config.model, bundle.spec, *facts, versions("phalanx", "torch"))).encode())
    for name, tensor in sorted(bundle.model.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(flat.numpy().data)
    return digest.hexdigest()[:24]


def versions(*packages: str) -> dict[str, str]:
    """Return the version of each package that is installed, by its name."""
    installed = {}
    for package in packages:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed
