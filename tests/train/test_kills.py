"""Processes that are stopped from outside, politely or not, and continue as if nothing had been."""

import itertools
import os
import signal
import time
from collections.abc import Iterator, Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from phalanx.run.folder import RunFolder
from phalanx.train.trackers import JsonLines
from tests.train.processes import command, die_at_files, in_fresh_process, start, train_to_the_end
from tests.train.runs import Corpus, curve, starts_and_steps

MOMENTS = [("files", 3), ("steps", 1), ("files", 20), ("steps", 2), ("files", 33), ("steps", 3), ("files", 40),
           ("steps", 4), ("files", 47), ("steps", 5), ("files", 54), ("steps", 6)]  # fmt: skip


def _wait(process: ForkServerProcess, run: Path, starts: int, steps: int) -> None:
    """Until the process that is the run's `starts`-th has done so many steps."""
    while starts_and_steps(run) < (starts, steps):
        assert process.is_alive()
        time.sleep(0.002)


@pytest.fixture
def started() -> Iterator[list[ForkServerProcess]]:
    """Processes that a failing test must not leave behind."""
    processes: list[ForkServerProcess] = []
    yield processes
    for process in processes:
        process.kill()
        process.join()


def _train_and_die(path: Path, kind: str, at: int) -> None:
    """Train, and be killed at the `at`-th thing that is done to a file of the run, or after so many steps."""
    count, told = itertools.count(1), JsonLines.train

    def tell(metrics: JsonLines, step: int, values: Mapping[str, float]) -> None:
        told(metrics, step, values)
        if next(count) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    if kind == "files":
        die_at_files(path, lambda: next(count) == at)
    else:
        vars_: Any = JsonLines
        vars_.train = tell
    train_to_the_end(path)


def test_kills_over_a_run(corpus: Corpus, run: Path, started: list[ForkServerProcess]) -> None:
    """While it starts, trains, evaluates and saves: each costs what was not saved, and the curve stays the same."""
    words = ["train.steps=60", "train.eval_every=16", "save.every=3", "layout.micro_batch=0", "model.dropout=0.1"]
    config = corpus.config("gpt", *words)
    whole = run.with_name("whole")
    for path in (run, whole):
        RunFolder.create(path, config, corpus.tokenizer("gpt").json())
    started.append(start(train_to_the_end, whole))
    during_saves = 0
    for moment in MOMENTS:
        process = start(_train_and_die, run, *moment)
        started.append(process)
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it must not have come to its end"
        during_saves += any(path.suffix in (".partial", ".old") for path in (run / "checkpoints").iterdir())
    assert during_saves > 2
    in_fresh_process(train_to_the_end, run)
    started[0].join()
    assert curve(run) == curve(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_with_its_code(
    corpus: Corpus, run: Path, number: signal.Signals, started: list[ForkServerProcess]
) -> None:
    """And the run continues exactly, also from another working directory than the one its paths were given in."""
    recipe = ["train", "gpt-tiny", *corpus.words("gpt"), "train.steps=30", "data.train=gpt", "data.tokenizer=gpt.json"]
    whole = run.with_name("whole")
    for path in (run, whole):
        started.append(start(command, corpus.folder, *recipe, "--out", str(path)))
    _wait(started[0], run, 1, 3)
    assert started[0].pid is not None
    os.kill(started[0].pid, number)
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [128 + number, 0]
    stopped = len(curve(run))
    assert 3 <= stopped < len(curve(whole))
    started.append(start(command, run.parent, "train", str(run)))
    started[-1].join()
    assert started[-1].exitcode == 0 and curve(run) == curve(whole)
