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
class Wish:
    """What is to be fine-tuned on what. Empty words leave it to the task."""

    run: str
    task: str
    data: Path
    valid: Path | None = None
    text: str = ""
    pair: str = ""
    label: str = ""
    epochs: float = 0.0


class Planned(NamedTuple):
    """One run of a sweep: its setting by key, what is fine-tuned on what, and the overrides."""

    setting: dict[str, str]
    wish: Wish
    overrides: list[str]


def planned(wish: Wish, overrides: Sequence[str], sweeps: Sequence[str], seeds: int) -> list[Planned]:
    """The runs of all combinations that `sweeps` and `seeds` name, or the one run. InputError for what is wrong with
    any of them whatever the model is.
    """
    found = []
    for setting in settings(sweeps, seeds, first_seed(overrides)):
        chosen = [word_of(*item) for item in setting.items() if item[0] != "epochs"]
        one = replace(wish, epochs=epochs_of(setting, wish.epochs))
        found.append(Planned(setting, one, [*overrides, *chosen]))
        check(one, found[-1].overrides)
    return found


def fit_all(asked: Sequence[Planned], model: str, out: Path, procs: int) -> int:
    """Fine-tune the run folder `model` once for each plan, in `out` or in folders within it, and tell what came of it.
    Each run has `procs` processes, 0: as many as its layout names. The exit code of the first run that failed, or 0.
    """
    outcomes = []
    for setting, wish, overrides in asked:
        folder = out / name_of(setting) if setting else out
        if code := _fit(words(replace(wish, run=model), overrides), folder, procs):
            return code
        outcomes.append((setting, outcome(folder)))
        if rendezvous.rank() == 0:
            print(outcomes[-1][1].line(), flush=True)

    if len(outcomes) > 1 and rendezvous.rank() == 0:
        write_summary(out / "summary.json", outcomes)
        print(*summary(outcomes), f"best: {best_of(outcomes).folder}", sep="\n", flush=True)
    return 0


def _fit(overrides: Sequence[str], folder: Path, procs: int) -> int:
    """Train one run, here or in processes of its own; its exit code."""
    words = ["train", RECIPE, *overrides, "--out", str(folder)]
    code = launch.in_processes(lambda: procs or processes_here(RECIPE, overrides, folder), arguments=words)
    if code is not None:
        return code
    stopped_by = fit(RECIPE, overrides, folder)
    return 128 + stopped_by if stopped_by else 0


def check(wish: Wish, overrides: Sequence[str]) -> None:
    """InputError for what is wrong whatever the model is: the task's name, its files, a key of the overrides."""
    task, train, _ = _files(wish)
    recipe.load(RECIPE, [*_columns(wish, task, train[0]), *overrides])


def words(wish: Wish, overrides: Sequence[str]) -> list[str]:
    """The overrides of the recipe `finetune` that make the run; InputError where task, files and model do not fit."""
    (task, train, valid), of = _files(wish), RunFolder.open(wish.run)
    sequence = min(task.sequence, context_of(of.config()))
    found = [
        *words_from(wish.run, heads=False), f"task={task.task}", f"data.train={','.join(train)}",
        f"data.valid={','.join(valid)}", f"data.tokenizer={of.tokenizer}", f"data.sequence={sequence}",
        f"optim.lr={task.lr}", f"examples.form={task.form}", f"examples.metric={task.metric}",
        f"examples.stride={max(1, sequence // 3)}",
        f"model.dropout={recipe.load(RECIPE).model.dropout}",
        f"data.split={'1,0,0' if valid else '9,1,0'}", *_columns(wish, task, train[0]),
    ]  # fmt: skip
    config = recipe.load(RECIPE, [*found, *overrides])
    kind = registry.TASKS.find(config.task)
    an_epoch = len(kind(kind.fitted(config), load_tokenizer(config.data.tokenizer)).training) / config.train.batch
    steps = max(1, math.ceil((wish.epochs or task.epochs) * an_epoch))
    return [*found, f"train.steps={steps}", f"train.eval_every={max(1, min(steps, round(an_epoch / 2)))}", *overrides]


def _files(wish: Wish) -> tuple[Benchmark, list[str], list[str]]:
    """The task, its training files, and its held-out ones."""
    task = _task(wish.task)
    train = files(wish.data, task.train)
    if not train:
        raise InputError(f"{wish.data} has none of {', '.join(task.train)}; name the file itself with --data")
    return task, train, files(wish.valid or wish.data, task.valid) if wish.valid or wish.data.is_dir() else []


def _task(name: str) -> Benchmark:
    """The task of a name, or of "module:Name" on the user's own columns."""
    if ":" in name:
        kind: Any = registry.TASKS.find(name)
        if not kind.labelled:
            raise InputError(f"task={name} is none on labelled files; phalanx train takes it")
        return Benchmark(name, "", form=kind.forms[0])
    if name not in BENCHMARKS | KINDS:
        raise InputError(f"no task {name!r}; use one of {', '.join([*BENCHMARKS, *KINDS])}, or module:Name")
    return (BENCHMARKS | KINDS)[name]


def _columns(wish: Wish, task: Benchmark, file: str) -> list[str]:
    """The task's own columns, or those that were named."""
    if task.form != "table" and task.form != "tags":
        return []
    own = columns(task, file) if task.form == "table" else task.columns[0]
    if task.task == "completion":
        own = Columns("prompt", "completion")
    named = {"text": wish.text or own.text, "pair": wish.pair or own.pair, "label": wish.label or own.label}
    return [f"examples.{key}={value}" for key, value in named.items()]


@dataclass(frozen=True)
class Outcome:
    """What a run came to: the best of its evaluations, by its task's metric."""

    folder: Path
    metric: str
    value: float
    step: int
    seconds: float

    def line(self) -> str:
        """Return the outcome as a line for a terminal."""
        return f"{self.folder}: {self.metric} {self.value:.4f} at step {self.step:,}"


def outcome(folder: Path) -> Outcome:
    """The best evaluation of a finished run, by its task's metric; InputError where the run was never evaluated."""
    run, records = RunFolder.open(folder), read(folder / FILE)
    config = run.config()
    metric = registry.TASKS.find(config.task)(config, load_tokenizer(str(run.own_tokenizer()))).best_by
    found = [record for record in records if record["kind"] == "valid"]
    if not found:
        raise InputError(f"{folder} was never evaluated; give it held-out data")
    best = (min if metric == "loss" else max)(found, key=lambda record: record[metric])
    seconds = max((record.get("seconds", 0.0) for record in records), default=0.0)
    return Outcome(folder, metric, best[metric], best["step"], seconds)


def first_seed(overrides: Sequence[str]) -> int:
    """The seed that a run would have."""
    return recipe.load(RECIPE, [word for word in overrides if word.startswith("train.seed=")]).train.seed


def settings(sweeps: Sequence[str], seeds: int, first: int) -> list[dict[str, str]]:
    """All combinations of key=value,value words and of so many seeds from the first on, each as words by key."""
    axes = []
    for sweep in sweeps:
        key, equals, values = sweep.partition("=")
        if not equals or not all(values.split(",")):
            raise InputError(f"--sweep {sweep}: write key=value,value, as lr=1e-5,3e-5")
        axes.append([(key, value) for value in values.split(",")])
    if seeds > 1:
        axes.append([("seed", str(first + n)) for n in range(seeds)])
    return [dict(chosen) for chosen in itertools.product(*axes)]


def epochs_of(setting: dict[str, str], usual: float) -> float:
    """How often a setting's run reads the examples; `usual` where it does not say."""
    text = setting.get("epochs", str(usual))
    try:
        epochs = float(text)
    except ValueError:
        epochs = math.nan
    if not 0 <= epochs <= MOST_EPOCHS:
        raise InputError(f"epochs={text} is no number from 0 to {MOST_EPOCHS:,}")
    return epochs


def name_of(setting: dict[str, str]) -> str:
    """The folder of a setting's run."""
    return ",".join(f"{key}={value}" for key, value in setting.items()).replace("/", "-")


def word_of(key: str, value: str) -> str:
    """An override; some keys have a short name."""
    return f"{SHORT.get(key, key)}={value}"


def summary(outcomes: Sequence[tuple[dict[str, str], Outcome]]) -> list[str]:
    """A table: a row for each setting apart from its seeds, with the mean over these and how far they spread."""
    groups: dict[tuple[tuple[str, str], ...], list[Outcome]] = {}
    for setting, found in outcomes:
        key = tuple((name, value) for name, value in setting.items() if name != "seed")
        groups.setdefault(key, []).append(found)
    names = [name for name, _ in next(iter(groups))]
    metric = outcomes[0][1].metric
    rows = [[*names, metric, "± sd", "runs", "best", "seconds"]]
    for setting_, found_ in groups.items():
        values = [each.value for each in found_]
        spread = f"{stdev(values):.4f}" if len(values) > 1 else "-"
        best = (min if metric == "loss" else max)(values)
        rows.append([
            *(value for _, value in setting_), f"{mean(values):.4f}", spread, str(len(values)), f"{best:.4f}",
            f"{mean(each.seconds for each in found_):.0f}",
        ])  # fmt: skip
    return aligned(rows, left=range(len(names)), space="  ")


def best_of(outcomes: Sequence[tuple[dict[str, str], Outcome]]) -> Outcome:
    """The one to keep."""
    sign = -1 if outcomes[0][1].metric == "loss" else 1
    return max((found for _, found in outcomes), key=lambda found: sign * found.value)


def write_summary(file: Path, outcomes: Sequence[tuple[dict[str, str], Outcome]]) -> None:
    """Write the summary of a sweep as JSON."""
    told = [
        {**setting, "run": str(found.folder), found.metric: found.value, "step": found.step, "seconds": found.seconds}
        for setting, found in outcomes
    ]
    durable.write(file, json.dumps(told, indent=1).encode())
