"""Fine-tuning as a run: what a task and its files make of the recipe `finetune`, and what came of it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phalanx import recipe, registry
from phalanx.data.examples import Columns
from phalanx.data.tokenize import load_tokenizer
from phalanx.errors import InputError
from phalanx.models.family import context_of
from phalanx.run.folder import RunFolder, words_from
from phalanx.run.records import FILE, read
from phalanx.tasks.benchmarks import BENCHMARKS, Benchmark, columns, files
from phalanx.tasks.preflight import task_of

RECIPE = "finetune"
KINDS = {  # tasks without a published name, on the user's own columns
    "classes": Benchmark("classes", ""),
    "value": Benchmark("value", ""),
    "tokens": Benchmark("tokens", "", form="tags"),
    "completion": Benchmark("completion", "", (Columns("prompt", "completion"),), sequence=1 << 20),
}


@dataclass(frozen=True)
class TuneRequest:
    """A run folder to fine-tune, and the task and the files to do it on. What is empty is left to the task."""

    run: str
    task: str
    data: Path
    valid: Path | None = None
    text: str = ""
    pair: str = ""
    label: str = ""
    epochs: float = 0.0


def check(request: TuneRequest, overrides: Sequence[str]) -> None:
    """Raise InputError for what is wrong whatever the model is: the task's name, its files, a key of the overrides."""
    task, train, _ = _files(request)
    recipe.load(RECIPE, [*_columns(request, task, train[0]), *overrides])


def overrides_of(request: TuneRequest, overrides: Sequence[str]) -> list[str]:
    """Return the overrides of the recipe `finetune` that make the run.

    InputError where task, files and model do not fit.
    """
    (task, train, valid), base = _files(request), RunFolder.open(request.run)
    sequence = min(task.sequence, context_of(base.config()))
    own = [
        *words_from(request.run, heads=False), f"task={task.task}", f"data.train={','.join(train)}",
        f"data.valid={','.join(valid)}", f"data.tokenizer={base.tokenizer}", f"data.sequence={sequence}",
        f"optim.lr={task.lr}", f"examples.form={task.form}", f"examples.metric={task.metric}",
        f"examples.stride={max(1, sequence // 3)}",
        f"model.dropout={recipe.load(RECIPE).model.dropout}",
        f"data.split={'1,0,0' if valid else '9,1,0'}", *_columns(request, task, train[0]),
    ]  # fmt: skip

    config = recipe.load(RECIPE, [*own, *overrides])
    kind = registry.TASKS.find(config.task)
    tokenizer = load_tokenizer(config.data.tokenizer)
    with registry.blamed("task", config.task, "fitted(), or the reading of its files,"):
        labelled = kind(kind.fitted(config), tokenizer)
        steps_per_epoch = len(labelled.training) / config.train.batch
    steps = max(1, math.ceil((request.epochs or task.epochs) * steps_per_epoch))
    eval_every = max(1, min(steps, round(steps_per_epoch / 2)))
    return [*own, f"train.steps={steps}", f"train.eval_every={eval_every}", *overrides]


def _files(request: TuneRequest) -> tuple[Benchmark, list[str], list[str]]:
    """Return the task, its training files, and its held-out ones. InputError where there are none to train on."""
    task = _task(request.task)
    train = files(request.data, task.train)
    if not train:
        raise InputError(f"{request.data} has none of {', '.join(task.train)}; name the file itself with --data")
    apart = request.valid or request.data.is_dir()
    return task, train, files(request.valid or request.data, task.valid) if apart else []


def _task(name: str) -> Benchmark:
    """Return the task of a name, or of "module:Name" on the user's own columns. InputError for a name that is none."""
    if registry.from_outside(name):
        kind: Any = registry.TASKS.find(name)
        if not kind.labelled or not getattr(kind, "forms", ()):
            raise InputError(f"task={name} is none on labelled files; phalanx train takes it")
        return Benchmark(name, "", form=kind.forms[0])
    if name not in BENCHMARKS | KINDS:
        raise InputError(f"no task {name!r}; use one of {', '.join([*BENCHMARKS, *KINDS])}, or module:Name")
    return (BENCHMARKS | KINDS)[name]


def _columns(request: TuneRequest, task: Benchmark, file: str) -> list[str]:
    """Return the overrides that name the columns: the task's own, or those of the request."""
    if task.form not in ("table", "tags"):
        return []
    own = columns(task, file) if task.form == "table" else task.columns[0]
    named = {"text": request.text or own.text, "pair": request.pair or own.pair, "label": request.label or own.label}
    return [f"examples.{key}={value}" for key, value in named.items()]


@dataclass(frozen=True)
class Outcome:
    """The best of a run's evaluations, by its task's metric, and the seconds that the run took."""

    folder: Path
    metric: str
    value: float
    step: int
    seconds: float

    def line(self) -> str:
        """Return the outcome as a line for a terminal."""
        return f"{self.folder}: {self.metric} {self.value:.4f} at step {self.step:,}"


def best_by(metric: str) -> Callable[..., Any]:
    """Return what picks the best by a metric: the lowest loss, the most of anything else."""
    return min if metric == "loss" else max


def outcome(folder: Path) -> Outcome:
    """Return the best evaluation of a finished run, by its task's metric; InputError where it was never evaluated."""
    run, records = RunFolder.open(folder), read(folder / FILE)
    config = run.config()
    metric = task_of(config, load_tokenizer(str(run.own_tokenizer()))).best_by
    evaluations = [record for record in records if record["kind"] == "valid"]
    if not evaluations:
        raise InputError(f"{folder} was never evaluated; give it held-out data")
    best = best_by(metric)(evaluations, key=lambda record: record[metric])
    seconds = max((record.get("seconds", 0.0) for record in records), default=0.0)
    return Outcome(folder, metric, best[metric], best["step"], seconds)
