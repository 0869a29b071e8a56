"""Sweeps: fine-tuning runs over combinations of settings and seeds, and the table of what came of them."""

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from phalanx import durable, recipe
from phalanx.errors import InputError
from phalanx.runtime import launch, rendezvous
from phalanx.tasks.run import processes_here
from phalanx.tasks.run import train as fit
from phalanx.tasks.tune import RECIPE, Outcome, TuneRequest, best_by, check, outcome, overrides_of
from phalanx.units import aligned

MOST_EPOCHS = 1_000_000
SHORT = {"lr": "optim.lr", "batch": "train.batch", "seed": "train.seed", "dropout": "model.dropout"}


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
        best = best_by(metric)(values)
        rows.append([
            *(value for _, value in key), f"{mean(values):.4f}", spread, str(len(values)), f"{best:.4f}",
            f"{mean(each.seconds for each in results):.0f}",
        ])  # fmt: skip
    return aligned(rows, left=range(len(names)), space="  ")


def best_of(outcomes: Sequence[tuple[dict[str, str], Outcome]]) -> Outcome:
    """Return the outcome to keep: that with the best value of the metric."""
    best: Outcome = best_by(outcomes[0][1].metric)((result for _, result in outcomes), key=lambda result: result.value)
    return best


def write_summary(file: Path, outcomes: Sequence[tuple[dict[str, str], Outcome]]) -> None:
    """Write the summary of a sweep as JSON."""
    rows = [
        setting
        | {"run": str(result.folder), result.metric: result.value}
        | {"step": result.step, "seconds": result.seconds}
        for setting, result in outcomes
    ]
    durable.write(file, json.dumps(rows, indent=1).encode())
