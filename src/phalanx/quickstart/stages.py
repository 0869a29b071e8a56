"""A stage, and how a list of them is run: numbered, explained, reused where nothing changed."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

import phalanx
from phalanx.quickstart.ledger import Ledger
from phalanx.quickstart.plan import Workspace
from phalanx.train.contention import SECONDS, WAITED, CoreWait
from phalanx.units import duration

Result = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """One step of the quickstart.

    `inputs` and the inputs of the stages it `needs` decide its result; `owns` are the paths in the folder that are its
    alone. `work` must be able to go on with what an interrupted one left there. `describe` puts the result in words.
    """

    name: str
    title: str
    why: str
    work: Callable[[Workspace], Result]
    describe: Callable[[Result], Iterator[str]]
    inputs: Any
    needs: tuple[str, ...] = ()
    owns: tuple[str, ...] = ()


class Stopped(Exception):
    """A signal ended a stage; what was learned is saved."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by signal {signal}")
        self.signal = signal


def run(stages: Sequence[Stage], workspace: Workspace, console: Console) -> float:
    """Do what is left; `workspace.results` takes each stage's result. Return the seconds of all, reused ones too."""
    ledger = Ledger(workspace.folder)
    digests: dict[str, str] = {}
    for number, stage in enumerate(stages, 1):
        digests[stage.name] = inputs = _digest(stage, digests)
        console.print(Text(f"\n{number}/{len(stages)}  {stage.title}", style="bold cyan"))
        _print(console, stage.why, "dim")

        if entry := ledger.done(stage.name, inputs, stage.owns):
            note = f"Done before, with the same inputs: reused ({duration(entry['seconds'])} saved)."
            assert entry["result"] is not None
            workspace.results[stage.name] = entry["result"]
        else:
            if ledger.begin(stage.name, inputs, stage.owns):
                _print(console, "It was interrupted before and goes on from there.")
            waiting = CoreWait()
            workspace.results[stage.name] = _work(stage, workspace, ledger)
            note = f"Took {duration(ledger.entries[stage.name]['seconds'])}.{_crowd(waiting)}"

        for line in stage.describe(workspace.results[stage.name]):
            _print(console, line)
        _print(console, note, "green")
    return sum(ledger.entries[stage.name]["seconds"] for stage in stages)


def _work(stage: Stage, workspace: Workspace, ledger: Ledger) -> Result:
    begun, result = time.monotonic(), None
    try:
        result = stage.work(workspace)
    finally:
        ledger.end(stage.name, time.monotonic() - begun, result)
    return result


def _crowd(waiting: CoreWait) -> str:
    """Return a sentence about other processes, where they made a stage of some length slow, else nothing."""
    share = waiting.share()
    if waiting.seconds < SECONDS or share < WAITED:
        return ""
    return f" Other processes used the cores too: it waited for one {share:.0%} of that time."


def _digest(stage: Stage, digests: dict[str, str]) -> str:
    decides = [phalanx.__version__, stage.name, stage.inputs, *(digests[name] for name in stage.needs)]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]


def _print(console: Console, line: str, style: str = "") -> None:
    console.print(Text(line, style=style), soft_wrap=True)
