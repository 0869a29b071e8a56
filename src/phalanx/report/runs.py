"""Runs as a report sees them: series over steps, a configuration, and the facts of the summary."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phalanx import recipe
from phalanx.errors import InputError
from phalanx.report.curves import smooth
from phalanx.run.records import FILE, Record, read
from phalanx.run.verdict import OVERFITS, judge
from phalanx.units import count, duration


@dataclass(frozen=True)
class Run:
    """A run folder that was read. The last record of a step and kind counts."""

    name: str
    config: dict[str, str]
    records: dict[str, list[Record]]

    def series(self, kind: str, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the steps and the values of `key` in the records of `kind`; NaN where a record has none."""
        records = self.records.get(kind, [])
        values = [float("nan") if (value := record.get(key)) is None else value for record in records]
        return np.array([record["step"] for record in records], float), np.array(values, float)

    def keys(self, kind: str) -> list[str]:
        """Return the keys that the records of `kind` have, in the order in which they first come."""
        return list(dict.fromkeys(key for record in self.records.get(kind, []) for key in record))

    @property
    def best(self) -> tuple[float, float] | None:
        """Step and value of the lowest held-out loss."""
        steps, losses = self.series("valid", "loss")
        if not np.isfinite(losses).any():
            return None
        at = int(np.nanargmin(losses))
        return float(steps[at]), float(losses[at])

    @property
    def verdict(self) -> str:
        """The verdict on its losses (`run.verdict.judge`)."""
        return judge([*self.records.get("train", []), *self.records.get("valid", [])])


def open_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run folders; they are called by their last names, or by their whole paths where these are alike."""
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    return [_open(folder, name) for folder, name in zip(folders, names, strict=True)]


def _open(folder: Path, name: str) -> Run:
    if not (folder / FILE).is_file():
        what = f"has no {FILE}, so it is no run that trained" if folder.is_dir() else "is not a folder"
        raise InputError(f"{folder} {what}; give the folder of a run, as `phalanx train` makes them")

    newest = {(record["kind"], record["step"]): record for record in read(folder / FILE)}
    records: dict[str, list[Record]] = {}
    for (kind, _), record in sorted(newest.items(), key=lambda item: item[0][1]):
        records.setdefault(kind, []).append(record)
    if not records.keys() & {"train", "valid"}:
        raise InputError(f"{folder / FILE} holds no steps yet; report again once the run has trained some")

    return Run(name, _config(folder / "config.toml"), records)


def _config(path: Path) -> dict[str, str]:
    """Return the resolved configuration as dotted keys; nothing where there is no file."""
    return dict(_flat(recipe.read(path))) if path.exists() else {}


def _flat(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value)


def summary(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Return the header and rows of the summary: a column for each run."""
    facts = [_facts(run) for run in runs]
    names = list(dict.fromkeys(name for of_run in facts for name in of_run))
    return ["", *(run.name for run in runs)], [[name, *(f.get(name, "–") for f in facts)] for name in names]


def differences(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Return the header and rows of the keys in which the configurations differ."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    rows = [[key, *(run.config.get(key, "–") for run in runs)] for key in keys]
    return ["key", *(run.name for run in runs)], [row for row in rows if len(set(row[1:])) > 1]


def warning(run: Run) -> str:
    """Return a sentence about a run that overfits or diverges, else nothing."""
    if run.best is None or not run.verdict:
        return ""
    step, loss = run.best
    last = run.series("valid", "loss")[1][-1]
    return (
        f"{run.name} {run.verdict} after step {step:,.0f}: its held-out loss rose from {loss:.4f} to {last:.4f} while "
        f"its training loss {'fell' if run.verdict == OVERFITS else 'rose too'}. Its best checkpoint is the one to use."
    )


def _facts(run: Run) -> dict[str, str]:
    facts: dict[str, str] = {}
    started = {key: value for record in run.records.get("start", []) for key, value in record.items()}
    if "parameters" in started:
        facts["parameters"] = count(started["parameters"])
    if "device" in started:
        facts["device"] = str(started["device"])
    if resumed := sum(record["step"] > 0 for record in run.records.get("start", [])):
        facts["resumed"] = f"{resumed} times" if resumed > 1 else "once"

    if run.best:
        facts["best held-out loss"] = f"{run.best[1]:.4f} at step {run.best[0]:,.0f}"
        facts["last held-out loss"] = f"{run.series('valid', 'loss')[1][-1]:.4f}"

    perplexities = run.series("valid", "perplexity")[1]
    if np.isfinite(perplexities).any():
        facts["best perplexity"] = f"{np.nanmin(perplexities):,.2f}"

    steps, losses = run.series("train", "loss")
    if len(steps):
        facts["last training loss, smoothed"] = f"{smooth(losses)[-1]:.4f}"
        facts["steps"] = f"{steps[-1]:,.0f}"
    for key, name, form in (("tokens", "tokens seen", count), ("skipped", "skipped steps", "{:.0f}".format)):
        values = run.series("train", key)[1]
        if np.isfinite(values).any():
            facts[name] = form(float(np.nanmax(values)))

    seconds = run.series("train", "seconds")[1]
    if np.isfinite(seconds).any():
        facts["time"] = duration(float(np.nanmax(seconds)))
    rates = run.series("train", "tokens_per_s")[1]
    if np.isfinite(rates).any():
        facts["tokens/s, median"] = count(float(np.nanmedian(rates)))
    return facts
