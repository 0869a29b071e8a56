"""Which backend is the fastest here: those that are installed are measured at load, in turns, on lengths like those to
come, and the fastest whose answers stay close to those of fp32 is taken and remembered.
"""

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch

from phalanx import durable, processor
from phalanx.data.labelled import Encoded
from phalanx.data.source import Array
from phalanx.errors import InputError
from phalanx.infer import backends, kernels, store
from phalanx.infer.backends import Program, Wanted
from phalanx.infer.loaded import Loaded
from phalanx.units import aligned

LENGTHS = (16, 128, 384)  # tokens of the rows that are timed, as far as the model sees
ROUNDS = 5
CLOSE = {"fp32": 5e-3, "bf16": 0.1, "fp16": 0.03, "int8": 0.3}  # of how far answers may be from fp32's, by their size


class Candidate(NamedTuple):
    """A backend that was measured: milliseconds by length, and its answers' distance to fp32's by the size of these."""

    backend: str
    milliseconds: tuple[float, ...]
    distance: float


def choose(loaded: Loaded, precision: str, hidden: bool, say: Callable[[str], None]) -> Program:
    """The program to use; `say` is told what was found."""
    names = [name for name in backends.NAMES if not backends.lacking(name, precision, loaded.spec)]
    wanted = Wanted(loaded, precision, hidden)
    if not names:
        raise InputError(f"precision={precision}: no backend has it here; use fp32")
    if len(names) == 1:
        return backends.build(names[0], wanted)
    file = store.folder() / f"{store.key(loaded, precision, hidden, names, _machine())}.choice.json"
    with store.alone(file):
        if remembered := _remembered(file, names):
            say(f"backend {remembered}, the fastest when this model was first loaded here ({file})")
            return backends.build(remembered, wanted)
        return _fastest(wanted, names, file, say)


def _fastest(wanted: Wanted, names: Sequence[str], file: Path, say: Callable[[str], None]) -> Program:
    """Build and time the backends, and return the fastest that is close to fp32's answers; write the choice to `file`.

    InputError where no backend is close enough.
    """
    loaded, precision, hidden = wanted
    programs = {}
    for name in names:
        try:
            programs[name] = backends.build(name, wanted)
        except InputError as error:
            say(f"{error}")
    lengths = sorted({min(length, loaded.context) for length in LENGTHS})
    found = measure(programs, lengths, loaded, backends.build("torch", Wanted(loaded, "fp32", hidden)))
    within = [one for one in found if one.distance < CLOSE[precision]]
    if not within:
        raise InputError(f"precision={precision}: every backend's answers are far from fp32's; use fp32")
    best = min(within, key=lambda one: sum(np.log(one.milliseconds)))
    for line in table(found, lengths, best.backend):
        say(line)
    durable.write(file, json.dumps({"backend": best.backend, "measured": [one._asdict() for one in found]}).encode())
    return programs[best.backend]


def measure(programs: dict[str, Program], lengths: Sequence[int], loaded: Loaded, exact: Program) -> list[Candidate]:
    """All programs in turns, a row of each length at a time."""
    draw = np.random.default_rng(0)
    rows = [Encoded(draw.integers(0, loaded.tokenizer.vocab, n), n // 2) for n in lengths]
    right = [exact([row])[0] for row in rows]
    times: dict[str, list[list[float]]] = {name: [[] for _ in rows] for name in programs}
    said = {name: [program([row])[0] for row in rows] for name, program in programs.items()}
    for _ in range(ROUNDS):
        for name, program in programs.items():
            for i, row in enumerate(rows):
                start = time.perf_counter()
                program([row])
                times[name][i].append((time.perf_counter() - start) * 1e3)
    return [Candidate(name, tuple(map(median, times[name])), _apart(said[name], right)) for name in programs]


def table(found: Sequence[Candidate], lengths: Sequence[int], best: str) -> list[str]:
    """For a terminal."""
    rows = [["backend", *(f"{n} tokens" for n in lengths), "distance to fp32", ""]]
    for one in found:
        times = (f"{value:.1f} ms" for value in one.milliseconds)
        rows.append([one.backend, *times, f"{one.distance:.1e}", "taken" if one.backend == best else ""])
    return aligned(rows, left=(0,), space="  ")


def _apart(said: Sequence[Array], right: Sequence[Array]) -> float:
    """Relative distance |said - right| / |right| of all answers as one vector; infinite where one is not finite."""
    a, b = (np.concatenate([one.ravel() for one in some]).astype(np.float64) for some in (said, right))
    distance = float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), 1e-30)
    return distance if math.isfinite(distance) else math.inf


def _remembered(file: Path, names: Sequence[str]) -> str:
    try:
        name = str(json.loads(file.read_text())["backend"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return name if name in names else ""


def _machine() -> tuple[object, ...]:
    """What the choice depends on beside the model."""
    packages = store.versions("torch", "onnxruntime", "openvino", "nncf", "tensorrt")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    instructions = processor.features(), torch.backends.cpu.get_cpu_capability(), processor.caps()
    cores = processor.name(), *instructions, os.cpu_count(), torch.get_num_threads()
    return *cores, gpu, packages, kernels.version()
