"""Autotuning: backends are measured in turns when a model is loaded, on lengths like those to come, and the fastest
whose answers stay close to those of fp32 is taken and remembered.
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
from phalanx.infer import artifact_cache, backends, kernels
from phalanx.infer.backends.protocol import EncoderProgram, ProgramSpec
from phalanx.infer.bundle import ModelBundle
from phalanx.units import aligned

LENGTHS = (16, 128, 384)  # tokens of the rows that are timed, as far as the model sees
ROUNDS = 5
CLOSE = {"fp32": 5e-3, "bf16": 0.1, "fp16": 0.03, "int8": 0.3}  # of how far answers may be from fp32's, by their size


class Candidate(NamedTuple):
    """A backend that was measured: milliseconds by length, and its answers' distance to fp32's by the size of these."""

    backend: str
    milliseconds: tuple[float, ...]
    distance: float


def fastest(program: ProgramSpec, log: Callable[[str], None]) -> EncoderProgram:
    """Make the program by the fastest backend of this package; `log` gets what was measured, or remembered.

    InputError where no backend has the precision, or none is close enough to fp32 in it.
    """
    bundle, precision, hidden = program
    names = [name for name in backends.NAMES if not backends.unavailable(name, "encoder", bundle.spec, precision)]
    if not names:
        raise InputError(f"precision={precision}: no backend has it here; use fp32")
    if len(names) == 1:
        return backends.encoder_program(names[0], program)

    file = artifact_cache.folder() / f"{artifact_cache.key(bundle, precision, hidden, names, _machine())}.choice.json"
    with artifact_cache.locked(file):
        if remembered := _remembered(file, names):
            log(f"backend {remembered}, the fastest when this model was first loaded here ({file})")
            return backends.encoder_program(remembered, program)
        return _measured(program, names, file, log)


def _measured(program: ProgramSpec, names: Sequence[str], file: Path, log: Callable[[str], None]) -> EncoderProgram:
    """Make and time the programs, and return the fastest that is close to fp32's answers; write the choice to `file`.

    InputError where no backend is close enough.
    """
    programs = {}
    for name in names:
        try:
            programs[name] = backends.encoder_program(name, program)
        except InputError as error:
            log(f"{error}")

    lengths = sorted({min(length, program.bundle.context) for length in LENGTHS})
    exact = backends.encoder_program("torch", program._replace(precision="fp32"))
    candidates = measure(programs, lengths, program.bundle, exact)
    within = [candidate for candidate in candidates if candidate.distance < CLOSE[program.precision]]
    if not within:
        raise InputError(f"precision={program.precision}: every backend's answers are far from fp32's; use fp32")

    best = min(within, key=lambda candidate: sum(np.log(candidate.milliseconds)))
    for line in table(candidates, lengths, best.backend):
        log(line)
    measured = [candidate._asdict() for candidate in candidates]
    durable.write(file, json.dumps({"backend": best.backend, "measured": measured}).encode())
    return programs[best.backend]


def measure(
    programs: dict[str, EncoderProgram], lengths: Sequence[int], bundle: ModelBundle, exact: EncoderProgram
) -> list[Candidate]:
    """Time the programs in turns, a random row of each length at a time, and compare their answers with `exact`'s."""
    draw = np.random.default_rng(0)
    rows = [Encoded(draw.integers(0, bundle.tokenizer.vocab, n), n // 2) for n in lengths]
    right = [exact([row])[0] for row in rows]

    times: dict[str, list[list[float]]] = {name: [[] for _ in rows] for name in programs}
    answers = {name: [program([row])[0] for row in rows] for name, program in programs.items()}

    for _ in range(ROUNDS):
        for name, program in programs.items():
            for i, row in enumerate(rows):
                start = time.perf_counter()
                program([row])
                times[name][i].append((time.perf_counter() - start) * 1e3)

    return [Candidate(name, tuple(map(median, times[name])), _distance(answers[name], right)) for name in programs]


def table(candidates: Sequence[Candidate], lengths: Sequence[int], best: str) -> list[str]:
    """Return lines for a terminal: a row for each backend."""
    rows = [["backend", *(f"{n} tokens" for n in lengths), "distance to fp32", ""]]
    for candidate in candidates:
        times = (f"{value:.1f} ms" for value in candidate.milliseconds)
        rows.append(
            [candidate.backend, *times, f"{candidate.distance:.1e}", "taken" if candidate.backend == best else ""]
        )
    return aligned(rows, left=(0,), space="  ")


def _distance(answers: Sequence[Array], right: Sequence[Array]) -> float:
    """Return the relative distance |answers - right| / |right| of all answers as one vector.

    It is infinite where a number is not finite.
    """
    a, b = (np.concatenate([array.ravel() for array in arrays]).astype(np.float64) for arrays in (answers, right))
    distance = float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(b)), 1e-30)
    return distance if math.isfinite(distance) else math.inf


def _remembered(file: Path, names: Sequence[str]) -> str:
    """Return the backend that was chosen before; "" where none was, or it is none of `names`."""
    try:
        name = str(json.loads(file.read_text())["backend"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return name if name in names else ""


def _machine() -> tuple[object, ...]:
    """Return the facts about this machine that the choice depends on."""
    packages = artifact_cache.versions("torch", "onnxruntime", "openvino", "nncf", "tensorrt")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    instructions = processor.features(), torch.backends.cpu.get_cpu_capability(), processor.caps()
    cores = processor.name(), *instructions, os.cpu_count(), torch.get_num_threads()
    return *cores, gpu, packages, kernels.version()
