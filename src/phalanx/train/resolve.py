"""Turn what a user asked for into what will run: every value that depends on another, on the data or on the machine.

This happens once. The result is written into the run folder and is never changed.
"""

import shutil
from pathlib import Path

import torch

from phalanx.config import Config, DataConfig
from phalanx.data.tokenize import BUNDLED
from phalanx.errors import InputError
from phalanx.models.family import spec_of
from phalanx.precision import gemm
from phalanx.spec.costs import flops_per_token
from phalanx.train.lay_out import lay_out
from phalanx.train.schedule import batch_size
from phalanx.train.settle import settle

# Compiling takes about a minute on a CPU and saves up to a third of every step after: worth it above this much work.
_COMPILE_FLOPS = {"cpu": 1e15, "cuda": 1e17}


def resolve(config: Config, vocab: int, processes: int = 1) -> Config:
    """The configuration with nothing left to decide, for a tokenizer of `vocab` tokens and so many processes.

    InputError for what cannot run.
    """
    config = settle(config, vocab)
    device = device_of(config.train.device)
    train = config.train.model_copy(update={"device": device.type, "init": _absolute(config.train.init)})
    dtype = gemm.resolve(config.precision.dtype, device)
    precision = config.precision.model_copy(update={"dtype": dtype})
    resolved = config.model_copy(update={"data": _placed(config.data), "train": train, "precision": precision})
    compiled = resolved.model_copy(update={"train": train.model_copy(update={"compile": _compile(resolved)})})
    return lay_out(compiled, processes)


def _placed(data: DataConfig) -> DataConfig:
    """The sets and the tokenizer by absolute paths, so that a run continues from any working directory."""
    sets = {name: tuple(map(_absolute, getattr(data, name))) for name in ("train", "valid", "test")}
    tokenizer = data.tokenizer if data.tokenizer in BUNDLED else _absolute(data.tokenizer)
    return data.model_copy(update={**sets, "tokenizer": tokenizer})


def _absolute(path: str) -> str:
    """A path, or PREFIX@weight, from the root on; nothing stays nothing."""
    return str(Path(path).absolute()) if path else path


def device_of(name: str) -> torch.device:
    """The device of train.device."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("train.device=cuda but torch sees no GPU here; use auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _compile(config: Config) -> str:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if config.train.compile == "on" and not compiler:
        raise InputError("train.compile=on needs a C++ compiler (g++ or clang++) and none is installed; use off")
    if config.train.compile != "auto":
        return config.train.compile
    if config.train.device == "cpu" and spec_of(config.model).tuned:
        return "off"  # most of such rows is padding, which only blocks that are not compiled leave out there
    sequences = config.train.steps * batch_size(config.train.steps, config.train)
    work = sequences * config.data.sequence * flops_per_token(spec_of(config.model), config.data.sequence)
    return "on" if compiler and work > _COMPILE_FLOPS[config.train.device] else "off"
