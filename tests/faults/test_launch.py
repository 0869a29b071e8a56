"""The launcher: a process that dies takes all with it, they start again from the last checkpoint; signals reach all."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from phalanx.runtime.watchdog import EXIT_CODE
from tests.faults.launched import PATIENCE, Launched, alive, is_free, wait_until
from tests.train.runs import Corpus, curve

WORDS = ["--procs", "2", "train.eval_every=0", "save.every=5", "layout.micro_batch=2"]
Launch = Callable[..., Launched]


@pytest.fixture
def launch(corpus: Corpus, tmp_path: Path) -> Iterator[Launch]:
    """Starts a run of two ranks in tmp_path/run; what a failing test must not leave behind is ended."""
    started: list[Launched] = []

    def launch(*words: str, run: str = "run") -> Launched:
        started.append(Launched(tmp_path / run, ["gpt-tiny", *corpus.words("gpt"), *WORDS, *words]))
        return started[-1]

    yield launch
    for each in started:
        each.kill()


def test_a_killed_process_costs_what_was_not_saved(launch: Launch, tmp_path: Path) -> None:
    """Twice; then no restart is left, and by hand it goes on to the same end as a run that nobody disturbed. Rank 1 is
    killed while it dawdles and the other waits for it, so that no run is over before.
    """
    words = ["train.steps=16", "layout.tp=2", "optim.name=tests.faults.late:Held"]
    disturbed = launch(*words, "--restarts", "1")
    for start in (1, 2):
        ranks = disturbed.trains(start, 6)
        assert len(ranks) == 2
        os.kill(ranks[-1], signal.SIGKILL)
        wait_until(lambda ranks=ranks: not alive(ranks))
    code, errors = disturbed.end()
    assert code == 128 + signal.SIGKILL
    assert [line for line in errors if "was killed" in line] == [
        "phalanx: rank 1 was killed by SIGKILL; starting again from the last checkpoint (1 of 1)",
        "phalanx: rank 1 was killed by SIGKILL; no restart is left of 1",
    ]
    assert len(errors) <= 4 and all(line.startswith("phalanx: rank") for line in errors), "and what rank 0 lost"
    assert launch(*words).end() == (0, [])
    assert launch(*words, run="whole").end() == (0, [])
    steps = {record["step"]: record for record in curve(tmp_path / "run")}
    assert list(steps.values()) == curve(tmp_path / "whole")


def test_the_neighbours_of_a_killed_rank_say_one_line(launch: Launch) -> None:
    """Though the schedule of a pipeline wraps what a stage meets with in errors of its own."""
    launched = launch("--procs", "4", "train.steps=100000", "layout.pp=2", "layout.tp=2")
    os.kill(launched.trains(1, 2)[1], signal.SIGKILL)
    code, errors = launched.end()
    assert code == 128 + signal.SIGKILL
    assert errors[-1] == "phalanx: rank 1 was killed by SIGKILL; --restarts N would start it again"
    assert all(line.startswith("phalanx: rank 0 lost another process: ") for line in errors[:-1]), errors
    assert len(errors) <= 2


def test_ranks_end_with_their_launcher(launch: Launch, tmp_path: Path) -> None:
    """Also one that is stopped, and one that waits for it; and the folder is free for the next."""
    launched = launch("train.steps=100000", "layout.dp=2")
    ranks = launched.trains(1, 6)
    os.kill(ranks[1], signal.SIGSTOP)
    os.kill(launched.number, signal.SIGKILL)
    wait_until(lambda: not alive(ranks) and is_free(tmp_path / "run"))
    assert launched.lines() == []


def test_a_stopped_first_rank_is_named_and_woken(launch: Launch) -> None:
    """It keeps the store by which the others would tell; the launcher does not wait for it to obey, or blame it."""
    launched = launch("train.steps=100000", "layout.dp=2", "layout.timeout=10")
    ranks = launched.trains(1, 6)
    os.kill(ranks[0], signal.SIGSTOP)
    code, errors = launched.end()
    assert code == EXIT_CODE, errors
    hang, last = (line for line in errors if line.startswith("phalanx: "))
    assert f"and rank 0 (process {ranks[0]} on " in hang and "does not answer: it was stopped" in hang
    assert last == "phalanx: the processes hung; --restarts N would start it again"


def test_an_interrupt_reaches_all(launch: Launch, tmp_path: Path) -> None:
    launched = launch("train.steps=100000", "layout.tp=2", "--restarts", "3")
    ranks = launched.trains(1, 6)
    os.kill(launched.number, signal.SIGINT)
    assert launched.end() == (128 + signal.SIGINT, [])
    assert not alive(ranks)
    _saved_where_it_stopped(tmp_path / "run")


def test_a_signal_reaches_fresh_interpreters(corpus: Corpus, tmp_path: Path) -> None:
    """The command as a user gives it."""
    words = [
        "gpt-tiny",
        *corpus.words("gpt"),
        *WORDS,
        "train.steps=100000",
        "layout.tp=2",
        "--out",
        str(tmp_path / "run"),
    ]
    command = [sys.executable, "-m", "phalanx", "train", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        metrics = tmp_path / "run" / "metrics.jsonl"
        wait_until(lambda: process.poll() is not None or (metrics.exists() and '"train"' in metrics.read_text()))
        process.terminate()
        _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (128 + signal.SIGTERM, "")
    _saved_where_it_stopped(tmp_path / "run")


def _saved_where_it_stopped(run: Path) -> None:
    assert Checkpointer(RunFolder(run)).latest == max(record["step"] for record in curve(run))
