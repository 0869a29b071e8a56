"""This machine, as the target of a run: its device, what that multiplies, and whether it can compile."""

import shutil
from functools import partial

import torch

from phalanx.config import TrainConfig
from phalanx.errors import InputError
from phalanx.precision import gemm
from phalanx.train.resolve import Target


def device_of(name: str) -> torch.device:
    """Return the device that train.device names. InputError for one that is not here."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("train.device=cuda but torch sees no GPU here; use auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def this_machine(train: TrainConfig, processes: int = 1, vocab: int = 0, files: bool = False) -> Target:
    """Return this machine as the target of a run in so many processes, with its data as `Target` has them.

    InputError for what [train] asks for and this machine has not.
    """
    device, compiler = device_of(train.device), shutil.which("g++") or shutil.which("clang++")
    if train.compile == "on" and not compiler:
        raise InputError("train.compile=on needs a C++ compiler (g++ or clang++) and none is installed; use off")
    return Target(processes, device.type, partial(gemm.resolve, device=device), bool(compiler), vocab, files)
