"""Files of torch.save, read without running the code that a pickle may name."""

import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from phalanx.errors import InputError
from phalanx.foreign import reading, unreadable


def load(path: Path, classes: Sequence[Any] = ()) -> Any:
    """Return the content of the file, its tensors on the CPU and mapped from the disk where the format allows it.

    Beside tensors and plain values it may hold `classes`, which do nothing when they are read. InputError for a class
    that is not among them, and for a file that is damaged.
    """
    with reading(path):
        try:
            with torch.serialization.safe_globals([*classes]), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about a pickle's protocol: what cannot be read is told below
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except UnpicklingError as error:
            reason = str(error)
    raise refusal(path, reason)


def refusal(path: Path, reason: str) -> InputError:
    """Return the error to raise for a file that torch did not unpickle, by the reason that torch gave."""
    if named := re.search(r"GLOBAL:? (?:GLOBAL )?([\w.]+)", reason):
        return InputError(
            f"{path} holds more than tensors ({named[1]}), which may be code: it is not opened; save it as safetensors"
        )
    unknown = re.search(r"Unsupported .*", reason)
    what = unknown[0] if unknown else "its pickle cannot be read"
    return unreadable(path, f"{what}; it is damaged, or holds what may be code and is not opened")
