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

from phalanx import processor, recipe
from phalanx.config import Config
from phalanx.errors import InputError
from phalanx.measure.crew import Crew
from phalanx.measure.rehearsal import definite, rehearse
from phalanx.models.family import spec_of
from phalanx.spec.costs import flops_per_token
from phalanx.train.resolve import device_of
from phalanx.train.settle import expand

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
        """In a picture."""
        return f"{self.parallel}, {self.kind}"

    @property
    def gpus(self) -> int:
        """Devices."""
        return self.processes

    @property
    def flops(self) -> float:
        """A second, of all."""
        return self.processes * self.model_flops_per_process

    @property
    def published(self) -> None:
        """By nobody."""


def scale(
    name: str, words: Sequence[str], parallel: str, kind: str, counts: Sequence[int], steps: int,
    progress: Callable[[], None] = lambda: None,
) -> list[Result]:  # fmt: skip
    """A result for each count of processes, 1 among them. `progress` is called `turns(counts, steps)` times."""
    counts = sorted({1, *counts})
    configs = {count: grown(name, words, parallel, kind, count) for count in counts}
    _check(configs[1].train.device, counts)
    times: dict[int, list[float]] = {count: [] for count in counts}
    with ExitStack() as stack:
        crews: dict[int, Crew] = {}
        for count, config in configs.items():
            crews[count] = stack.enter_context(Crew(count, rehearse, config, device=config.train.device))
        for number in range(WARM + steps):
            for count, crew in crews.items():
                seconds = crew.turn().seconds
                times[count] += [seconds] * (number >= WARM)
                progress()
    results = [_result(kind, parallel, count, configs[count], statistics.median(times[count])) for count in counts]
    alone = results[0].model_flops_per_process
    return [Result(**{**asdict(r), "efficiency": r.model_flops_per_process / alone}) for r in results]


def turns(counts: Sequence[int], steps: int) -> int:
    """Steps of all groups together."""
    return len({1, *counts}) * (WARM + steps)


def grown(name: str, words: Sequence[str], parallel: str, kind: str, count: int) -> Config:
    """The recipe for so many processes. Weak scaling: their batch (dp), sequence (cp), layers and batch (pp) or width
    (tp, with as many parameters a process as one has alone) grow with them.
    """
    config = expand(recipe.load_mapping(name, words))
    model, data, train, layout = config.model, config.data, config.train, config.layout
    if not any(word.startswith("train.batch=") for word in words):
        train = train.model_copy(update={"batch": min(train.batch, layout.micro_batch or DEFAULT_BATCH)})
    train = train.model_copy(
        update={"rampup": (0, 0, 0), "compile": "off" if train.compile == "auto" else train.compile}
    )
    micro_batch = layout.micro_batch if any(word.startswith("layout.micro_batch=") for word in words) else 0
    if parallel == "pp":
        micro_batch = micro_batch or max(1, train.batch // 4)
    if kind == "weak" and parallel in ("dp", "pp"):
        train = train.model_copy(update={"batch": train.batch * count})
    if kind == "weak" and parallel == "pp":
        model = model.model_copy(update={"layers": model.layers * count})
    if kind == "weak" and parallel == "cp":
        data = data.model_copy(update={"sequence": data.sequence * count})
        model = model.model_copy(update={"positions": max(model.positions, data.sequence)})
    if kind == "weak" and parallel == "tp":
        heads = round(model.heads * sqrt(count) / count) * count
        hidden = model.hidden // model.heads * heads
        ffn = round(model.ffn * heads / model.heads / count) * count  # as much wider as the residual stream
        wider = {"heads": heads, "hidden": hidden, "ffn": ffn}
        if hasattr(model, "kv_heads"):  # about as many queries to a key head as before
            most = max(1, heads * model.kv_heads // model.heads)
            wider["kv_heads"] = max(n for n in range(1, most + 1) if heads % n == 0)
        model = model.model_copy(update=wider)
    layout = layout.model_copy(update={"dp": 0, parallel: count, "micro_batch": micro_batch})
    changed = {"model": model, "data": data, "train": train, "layout": layout}
    return definite(config.model_copy(update=changed), count)


def _check(device: str, counts: Sequence[int]) -> None:
    here = torch.cuda.device_count() if device == "cuda" else processor.cpus()
    if max(counts) > here:
        what = "GPUs" if device_of(device).type == "cuda" else "cores"
        raise InputError(f"--procs {max(counts)}: there are {here} {what} here, one for a process; use up to {here}")


def _result(kind: str, parallel: str, count: int, config: Config, seconds: float) -> Result:
    model, sequence, batch = config.model, config.data.sequence, config.train.batch
    tokens = batch * sequence / seconds
    flops = flops_per_token(spec_of(model), sequence) * tokens / count
    return Result(kind, parallel, count, model.layers, model.hidden, sequence, batch, seconds, tokens, flops)


def table(results: Sequence[Result]) -> list[str]:
    """For a terminal."""
    lines = [f"{'processes':>9}{'layers':>8}{'hidden':>8}{'tokens a step':>15}{'s/step':>9}{'tokens/s':>11}"
             f"{'GFLOP/s a process':>19}{'efficiency':>12}"]  # fmt: skip
    for r in results:
        lines.append(
            f"{r.processes:>9}{r.layers:>8}{r.hidden:>8}{r.batch * r.sequence:>15,}{r.seconds:>9.4g}"
            f"{r.tokens_per_s:>11,.0f}{r.model_flops_per_process / 1e9:>19,.1f}{r.efficiency:>12.1%}"
        )
    return lines


def records(results: Sequence[Result]) -> list[dict[str, Any]]:
    """For machines."""
    return [asdict(result) for result in results]
