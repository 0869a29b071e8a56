"""How a model scales on the machine at hand: the announcement's graph, measured.

Groups of 1, 2, 4 … processes live side by side and take turns, a step each, so that a machine whose speed drifts slows
all alike. A processor's processes have a thread and a core each; otherwise each has a GPU.
"""

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

import torch

from phalanx import processor
from phalanx.config import Config
from phalanx.data.tokenize import load_tokenizer
from phalanx.errors import InputError
from phalanx.measure.synthetic import synthetic_step
from phalanx.measure.worker_group import WorkerGroup
from phalanx.models.family import spec_of
from phalanx.run.folder import load_config
from phalanx.spec.costs import flops_per_token
from phalanx.train.machine import this_machine
from phalanx.train.resolve import resolve

WARM = 2  # steps before the first that counts
DEFAULT_BATCH = 8


@dataclass(frozen=True)
class Result:
    """Median step of a number of processes. `efficiency` is the FLOP/s of each against those of one process alone."""

    kind: str
    parallel: str
    processes: int
    layers: int
    hidden: int
    sequence: int
    batch: int
    seconds: float
    tokens_per_s: float
    model_flops_per_process: float
    efficiency: float = 1.0

    @property
    def name(self) -> str:
        """The label of its curve in a picture."""
        return f"{self.parallel}, {self.kind}"

    @property
    def gpus(self) -> int:
        """The number of devices used: one a process."""
        return self.processes

    @property
    def flops(self) -> float:
        """The model's FLOP/s of all processes together."""
        return self.processes * self.model_flops_per_process

    @property
    def published(self) -> None:
        """None: a measurement of one's own, which no one has published."""


def scale(
    name: str, words: Sequence[str], parallel: str, kind: str, counts: Sequence[int], steps: int,
    progress: Callable[[], None] = lambda: None,
) -> list[Result]:  # fmt: skip
    """Return a result for each count of processes, 1 among them. `progress` is called `turns(counts, steps)` times.

    InputError for a task without random tokens, and for more processes than the machine has devices.
    """
    counts = sorted({1, *counts})
    configs = {count: grown(name, words, parallel, kind, count) for count in counts}
    _check(configs[1].train.device, counts)
    times: dict[int, list[float]] = {count: [] for count in counts}

    with ExitStack() as stack:
        groups: dict[int, WorkerGroup] = {}
        for count, config in configs.items():
            groups[count] = stack.enter_context(WorkerGroup(count, synthetic_step, config, device=config.train.device))
        for number in range(WARM + steps):
            for count, group in groups.items():
                seconds = group.turn().seconds
                times[count] += [seconds] * (number >= WARM)
                progress()

    results = [_result(kind, parallel, count, configs[count], statistics.median(times[count])) for count in counts]
    alone = results[0].model_flops_per_process
    return [Result(**{**asdict(r), "efficiency": r.model_flops_per_process / alone}) for r in results]


def turns(counts: Sequence[int], steps: int) -> int:
    """Return the number of steps of all groups together."""
    return len({1, *counts}) * (WARM + steps)


def grown(name: str, words: Sequence[str], parallel: str, kind: str, count: int) -> Config:
    """Return the recipe for so many processes, resolved.

    In weak scaling their batch (dp), sequence (cp), layers and batch (pp) or width (tp, with as many parameters a
    process as one has alone) grow with them. InputError for a task that has no random tokens.
    """
    config = load_config(name, words)
    if config.task not in ("clm", "mlm"):
        raise InputError(f"task={config.task} has no random tokens here; use clm or mlm")
    model, data, train, layout = config.model, config.data, config.train, config.layout
    batch, length = train.batch, data.sequence
    if not any(word.startswith("train.batch=") for word in words):
        batch = min(batch, layout.micro_batch or DEFAULT_BATCH)
    micro_batch = layout.micro_batch if any(word.startswith("layout.micro_batch=") for word in words) else 0
    if parallel == "pp":
        micro_batch = micro_batch or max(1, batch // 4)

    sizes: dict[str, int] = {}
    if kind == "weak" and parallel in ("dp", "pp"):
        batch *= count
    if kind == "weak" and parallel == "pp":
        sizes = {"layers": model.layers * count}
    if kind == "weak" and parallel == "cp":
        length *= count
        sizes = {"positions": max(model.positions, length)}
    if kind == "weak" and parallel == "tp":
        heads = round(model.heads * sqrt(count) / count) * count
        hidden = model.hidden // model.heads * heads
        ffn = round(model.ffn * heads / model.heads / count) * count  # as much wider as the residual stream
        sizes = {"heads": heads, "hidden": hidden, "ffn": ffn}
        if hasattr(model, "kv_heads"):  # about as many queries to a key head as before
            most = max(1, heads * model.kv_heads // model.heads)
            sizes["kv_heads"] = max(n for n in range(1, most + 1) if heads % n == 0)

    config = config.updated(
        model=sizes, data={"sequence": length}, layout={"dp": 0, parallel: count, "micro_batch": micro_batch},
        train={"batch": batch, "rampup": (0, 0, 0), "compile": "on" if train.compile == "on" else "off"},
    )  # fmt: skip
    vocab = load_tokenizer(data.tokenizer).vocab if data.tokenizer else 0
    return resolve(config, this_machine(config.train, count, vocab))


def _check(device: str, counts: Sequence[int]) -> None:
    available, unit = (torch.cuda.device_count(), "GPUs") if device == "cuda" else (processor.cpus(), "cores")
    if max(counts) > available:
        raise InputError(
            f"--procs {max(counts)}: there are {available} {unit} here, one for a process; use up to {available}"
        )


def _result(kind: str, parallel: str, count: int, config: Config, seconds: float) -> Result:
    model, sequence, batch = config.model, config.data.sequence, config.train.batch
    tokens = batch * sequence / seconds
    flops = flops_per_token(spec_of(model), sequence) * tokens / count
    return Result(kind, parallel, count, model.layers, model.hidden, sequence, batch, seconds, tokens, flops)


def table(results: Sequence[Result]) -> list[str]:
    """Return the measurements as lines of a table for a terminal."""
    lines = [f"{'processes':>9}{'layers':>8}{'hidden':>8}{'tokens a step':>15}{'s/step':>9}{'tokens/s':>11}"
             f"{'GFLOP/s a process':>19}{'efficiency':>12}"]  # fmt: skip
    for r in results:
        lines.append(
            f"{r.processes:>9}{r.layers:>8}{r.hidden:>8}{r.batch * r.sequence:>15,}{r.seconds:>9.4g}"
            f"{r.tokens_per_s:>11,.0f}{r.model_flops_per_process / 1e9:>19,.1f}{r.efficiency:>12.1%}"
        )
    return lines


def records(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the measurements as dicts for JSON."""
    return [asdict(result) for result in results]
