"""Fine-tuning as a run: what a task and its files make of the recipe `finetune`; sweeps over several such runs."""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from phalanx import durable, recipe, registry
from phalanx.data.examples import Columns
from phalanx.data.tokenize import load_tokenizer
from phalanx.errors import InputError
from phalanx.models.family import context_of
from phalanx.run.folder import RunFolder, words_from
from phalanx.run.records import FILE, read
from phalanx.runtime import launch, rendezvous
from phalanx.tasks.benchmarks import BENCHMARKS, Benchmark, columns, files
from phalanx.tasks.run import processes_here
from phalanx.tasks.run import train as fit
from phalanx.units import aligned

RECIPE = "finetune"
KINDS = {  # tasks without a published name, on the user's own columns
    "classes": Benchmark("classes", ""),
    "value": Benchmark("value", ""),
    "tokens": Benchmark("tokens", "", form="tags"),
    "completion": Benchmark("completion", "", sequence=1 << 20),
}
MOST_EPOCHS = 1_000_000
SHORT = {"lr": "optim.lr", "batch": "train.batch", "seed": "train.seed", "dropout": "model.dropout"}


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


class Planned(NamedTuple):
    """One run of a sweep: its setting by key, the request, and the overrides."""

    setting: dict[str, str]
    request: TuneRequest
    overrides: list[str]


def planned(request: TuneRequest, overrides: Sequence[str], sweeps: Sequence[str], seeds: int) -> list[Planned]:
    """Return the runs of all combinations that `sweeps` and `seeds` name, or the one run.

    InputError for what is wrong with any of them whatever the model is.
    """
    runs = []
    for setting in settings(sweeps, seeds, first_seed(overrides)):
        chosen = [word_of(*item) for item in setting.items() if item[0] != "epochs"]
        wanted = replace(request, epochs=epochs_of(setting, request.epochs))
        runs.append(Planned(setting, wanted, [*overrides, *chosen]))
        check(wanted, runs[-1].overrides)
    return runs


def fit_all(runs: Sequence[Planned], model: str, out: Path, procs: int) -> int:
    """Fine-tune the run folder `model` once for each plan, in `out` or in folders within it, and print what came of it.
    Each run has `procs` processes, 0: as many as its layout names. Return the exit code of the first that failed, or 0.
    """
    outcomes = []
    for setting, request, overrides in runs:
        folder = out / name_of(setting) if setting else out
        if code := _fit(overrides_of(replace(request, run=model), overrides), folder, procs):
            return code
        outcomes.append((setting, outcome(folder)))
        if rendezvous.rank() == 0:
            print(outcomes[-1][1].line(), flush=True)

    if len(outcomes) > 1 and rendezvous.rank() == 0:
        write_summary(out / "summary.json", outcomes)
        print(*summary(outcomes), f"best: {best_of(outcomes).folder}", sep="\n", flush=True)
    return 0


def _fit(overrides: Sequence[str], folder: Path, procs: int) -> int:
    """Train one run, here or in processes of its own, and return its exit code."""
    arguments = ["train", RECIPE, *overrides, "--out", str(folder)]
    code = launch.in_processes(lambda: procs or processes_here(RECIPE, overrides, folder), arguments=arguments)
    if code is not None:
        return code
    stopped_by = fit(RECIPE, overrides, folder)
    return 128 + stopped_by if stopped_by else 0


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
    if ":" in name:
        kind: Any = registry.TASKS.find(name)
        if not kind.labelled or not getattr(kind, "forms", ()):
            raise InputError(f"task={name} is none on labelled files; phalanx train takes it")
        return Benchmark(name, "", form=kind.forms[0])
    if name not in BENCHMARKS | KINDS:
        raise InputError(f"no task {name!r}; use one of {', '.join([*BENCHMARKS, *KINDS])}, or module:Name")
    return (BENCHMARKS | KINDS)[name]


def _columns(request: TuneRequest, task: Benchmark, file: str) -> list[str]:
    """Return the overrides that name the columns: the task's own, or those of the request."""
    if task.form != "table" and task.form != "tags":
        return []
    own = columns(task, file) if task.form == "table" else task.columns[0]
    if task.task == "completion":
        own = Columns("prompt", "completion")
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


def outcome(folder: Path) -> Outcome:
    """Return the best evaluation of a finished run, by its task's metric; InputError where it was never evaluated."""
    run, records = RunFolder.open(folder), read(folder / FILE)
    config = run.config()
    metric = registry.TASKS.find(config.task)(config, load_tokenizer(str(run.own_tokenizer()))).best_by
    evaluations = [record for record in records if record["kind"] == "valid"]
    if not evaluations:
        raise InputError(f"{folder} was never evaluated; give it held-out data")
    best = (min if metric == "loss" else max)(evaluations, key=lambda record: record[metric])
    seconds = max((record.get("seconds", 0.0) for record in records), default=0.0)
    return Outcome(folder, metric, best[metric], best["step"], seconds)


def first_seed(overrides: Sequence[str]) -> int:
    """Return the seed that a run would have."""
    return recipe.load(RECIPE, [word for word in overrides if word.startswith("train.seed=")]).train.seed


def settings(sweeps: Sequence[str], seeds: int, first: int) -> list[dict[str, str]]:
    """Return all combinations of key=value,value words and of so many seeds from the first on, each as words by key."""
    axes = []
    for sweep in sweeps:
        key, equals, values = sweep.partition("=")
        if not equals or not all(values.split(",")):
            raise InputError(f"--sweep {sweep}: write key=value,value, as lr=1e-5,3e-5")
        axes.append([(key, value) for value in values.split(",")])
    if seeds > 1:
        axes.append([("seed", str(first + n)) for n in range(seeds)])
    return [dict(setting) for setting in itertools.product(*axes)]


def epochs_of(setting: dict[str, str], usual: float) -> float:
    """Return how often a setting's run reads the examples; `usual` where it does not say. InputError for no number."""
    text = setting.get("epochs", str(usual))
    try:
        epochs = float(text)
    except ValueError:
        epochs = math.nan
    if not 0 <= epochs <= MOST_EPOCHS:
        raise InputError(f"epochs={text} is no number from 0 to {MOST_EPOCHS:,}")
    return epochs


def name_of(setting: dict[str, str]) -> str:
    """Return the name of the folder of a setting's run."""
    return ",".join(f"{key}={value}" for key, value in setting.items()).replace("/", "-")


def word_of(key: str, value: str) -> str:
    """Return an override; some keys have a short name."""
    return f"{SHORT.get(key, key)}={value}"


def summary(outcomes: Sequence[tuple[dict[str, str], Outcome]]) -> list[str]:
    """Return the lines of a table: a row for each setting apart from its seeds, with their mean and spread."""
    groups: dict[tuple[tuple[str, str], ...], list[Outcome]] = {}
    for setting, result in outcomes:
        key = tuple((name, value) for name, value in setting.items() if name != "seed")
        groups.setdefault(key, []).append(result)

    names = [name for name, _ in next(iter(groups))]
    metric = outcomes[0][1].metric
    rows = [[*names, metric, "± sd", "runs", "best", "seconds"]]
    for key, results in groups.items():
        values = [each.value for each in results]
        spread = f"{stdev(values):.4f}" if len(values) > 1 else "-"
        best = (min if metric == "loss" else max)(values)
        rows.append([
            *(value for _, value in key), f"{mean(values):.4f}", spread, str(len(values)), f"{best:.4f}",
            f"{mean(each.seconds for each in results):.0f}",
        ])  # fmt: skip
    return aligned(rows, left=range(len(names)), space="  ")


def best_of(outcomes: Sequence[tuple[dict[str, str], Outcome]]) -> Outcome:
    """Return the outcome to keep: that with the best value of the metric."""
    sign = -1 if outcomes[0][1].metric == "loss" else 1
    return max((result for _, result in outcomes), key=lambda result: sign * result.value)


def write_summary(file: Path, outcomes: Sequence[tuple[dict[str, str], Outcome]]) -> None:
    """Write the summary of a sweep as JSON."""
    rows = [
        setting
        | {"run": str(result.folder), result.metric: result.value}
        | {"step": result.step, "seconds": result.seconds}
        for setting, result in outcomes
    ]
    durable.write(file, json.dumps(rows, indent=1).encode())
