"""The files of Megatron-LM's checkpoints, and their contents, without running a pickle's code."""

import argparse
import codecs
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from phalanx.convert import pickled
from phalanx.errors import InputError
from phalanx.foreign import reading, short

FILES = ("model_optim_rng.pt", "model_rng.pt")
DEEPEST = 32  # parts within parts of a checkpoint
TRACKER = "latest_checkpointed_iteration.txt"


def files_of(folder: Path) -> list[Path]:
    """Return the checkpoint files of all tensor-parallel ranks, in order, at the newest iteration or the release.

    InputError where the folder holds no checkpoint, or one of a pipeline.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give the one that holds {TRACKER} or mp_rank_00")
    tracker = folder / TRACKER
    if tracker.is_file():
        with reading(tracker):
            iteration = tracker.read_text(encoding="utf-8").strip()
        if iteration != "release" and not re.fullmatch(r"[0-9]{1,18}", iteration):
            raise InputError(f"{tracker} says {short(iteration)}, which is neither an iteration's number nor release")
        folder = folder / (iteration if iteration == "release" else f"iter_{int(iteration):07d}")

    ranks = sorted(path for path in folder.glob("mp_rank_*") if path.is_dir())
    if not ranks:
        raise InputError(f"{folder} has no mp_rank_00: it is no checkpoint of Megatron-LM")
    if [path.name for path in ranks] != [f"mp_rank_{rank:02d}" for rank in range(len(ranks))]:
        raise InputError(f"{folder} has {ranks[-1].name}: pipelines and gaps are not read, only mp_rank_00, 01, …")

    files = [next((rank / name for name in FILES if (rank / name).is_file()), None) for rank in ranks]
    if None in files:
        raise InputError(f"{ranks[files.index(None)]} holds no {FILES[0]}")
    return [file for file in files if file]


def load(path: Path) -> dict[str, Any]:
    """Return the content of a rank's file. Classes of the arguments and of numpy alone are known, which do nothing when
    they are read. InputError for any other, and for a file that is no checkpoint.
    """
    # numpy's arrays of random states, by their names of before numpy 2 too
    reconstruct: Any = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    dtypes = [type(np.dtype(name)) for name in ("uint32", "int64", "float64", "bool")]
    harmless: list[Any] = [
        argparse.Namespace, np.ndarray, np.dtype, codecs.encode, reconstruct,
        (reconstruct, "numpy.core.multiarray._reconstruct"), *dtypes,
    ]  # fmt: skip
    content = pickled.load(path, harmless)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise InputError(f"{path} has no part named model: it is no checkpoint of Megatron-LM")
    return content


def flat_of(model: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """Return tensors by dotted name; what later versions call an encoder and its self-attention has its first name.

    InputError for parts within parts deeper than any that Megatron-LM has, as in a dictionary that holds itself.
    """
    out: dict[str, Tensor] = {}
    waiting = [("", model, 0)]
    while waiting:
        prefix, part, depth = waiting.pop()
        if depth > DEEPEST:
            raise InputError(f"{path} has parts within parts more than {DEEPEST} deep: it is no checkpoint of a model")
        for key, value in part.items():
            name = f"{prefix}{key}"
            if isinstance(value, Mapping):
                waiting.append((f"{name}.", value, depth + 1))
            elif isinstance(value, Tensor):
                name = name.replace("language_model.encoder.", "language_model.transformer.")
                out[name.replace("self_attention", "attention")] = value
    return out


def nested(flat: Mapping[str, Tensor]) -> dict[str, Any]:
    """Nest tensors as Megatron-LM keeps them: parts within parts, the transformer's and each head's names dotted."""
    out: dict[str, Any] = {}
    for name, tensor in flat.items():
        words = name.split(".")
        depth = {"embedding": 3, "transformer": 2, "pooler": 2}.get(words[1], 1) if words[0] == "language_model" else 1
        place = out
        for word in words[:depth]:
            place = place.setdefault(word, {})
        place[".".join(words[depth:])] = tensor
    return out
