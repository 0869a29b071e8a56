"""Processes that are stopped from outside, politely or not, and continue as if nothing had been."""

import os
import random
import signal
import time
from collections.abc import Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest

from phalanx.run.folder import RunFolder
from tests.train.processes import command, in_fresh_process, start, train_to_the_end
from tests.train.runs import Corpus, curve, starts_and_steps

KILLS = 30


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


def test_thirty_kills_over_a_run(corpus: Corpus, run: Path, started: list[ForkServerProcess]) -> None:
    """While it starts, trains, evaluates and saves: each costs what was not saved, and the curve stays the same."""
    words = ["train.steps=100", "train.eval_every=16", "save.every=3", "layout.micro_batch=0", "model.dropout=0.1"]
    config = corpus.config("gpt", *words)
    whole = run.with_name("whole")
    for path in (run, whole):
        RunFolder.create(path, config, corpus.tokenizer("gpt").json())
    in_fresh_process(train_to_the_end, whole)
    dice, during_saves = random.Random(), 0
    for _ in range(KILLS):
        starts, _ = starts_and_steps(run)
        process = start(train_to_the_end, run)
        started.append(process)
        if dice.random() < 0.8:
            _wait(process, run, starts + 1, dice.randrange(6))
        time.sleep(dice.uniform(0, 0.06))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it must not have come to its end"
        during_saves += any(path.suffix in (".partial", ".old") for path in (run / "checkpoints").iterdir())
    assert during_saves, "no kill struck during a save: this test proved nothing"
    in_fresh_process(train_to_the_end, run)
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
