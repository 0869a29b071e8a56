"""The launcher: a process that dies takes all with it, they start again from the last checkpoint; signals reach all."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from tests.faults.ranks import Ranks
from tests.train.runs import Corpus, curve

WORDS = ["train.eval_every=0", "save.every=5", "train.steps=80", "layout.micro_batch=4", "layout.tp=2"]
PATIENCE = 90  # seconds


class Launched:
    """`phalanx train --procs 2` in a run folder, and its processes."""

    def __init__(self, corpus: Corpus, run: Path, *words: str) -> None:
        self.run = run
        self.process = subprocess.Popen(
            [sys.executable, "-m", "phalanx", *_command(corpus, run), "--procs", "2", *words],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def children(self) -> list[int]:
        """The processes that it started, by their numbers."""
        found = []
        for file in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(file.read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has just ended
                continue
            if parent == self.process.pid and b"phalanx" in (file.parent / "cmdline").read_bytes():
                found.append(int(file.parent.name))
        return sorted(found)

    def trains(self, starts: int, steps: int) -> None:
        """Wait until the processes have started so often, and then done so many steps."""
        deadline = time.monotonic() + PATIENCE
        file = self.run / "metrics.jsonl"
        while time.monotonic() < deadline:
            text = file.read_text() if file.exists() else ""
            if text.count('"start"') >= starts and text.rpartition('"start"')[2].count('"train"') >= steps:
                return
            assert self.process.poll() is None
            time.sleep(0.02)
        raise TimeoutError(f"no {steps} steps in {PATIENCE} s")

    def end(self, seconds: float = PATIENCE) -> tuple[int, list[str]]:
        """The exit code, and the lines on stderr."""
        _, errors = self.process.communicate(timeout=seconds)
        return self.process.returncode, errors.splitlines()


@pytest.fixture
def launched() -> Iterator[list[Launched]]:
    """What a failing test must not leave behind."""
    all_: list[Launched] = []
    yield all_
    for each in all_:
        for number in [*each.children(), *([each.process.pid] if each.process.poll() is None else [])]:
            os.kill(number, signal.SIGKILL)
        each.process.wait()


def _command(corpus: Corpus, run: Path) -> list[str]:
    return ["train", "gpt-tiny", *corpus.words("gpt"), *WORDS, "--out", str(run)]


def _undisturbed(ranks: Ranks, command: list[str]) -> None:
    """The command's two processes, to their end."""
    started = [ranks.start(rank, 2, *command) for rank in range(2)]
    assert [rank.end(PATIENCE) for rank in started] == [0, 0]


def _alive(numbers: list[int]) -> list[int]:
    return [number for number in numbers if Path(f"/proc/{number}").exists()]


def test_a_killed_process_costs_what_was_not_saved(
    ranks: Ranks, corpus: Corpus, tmp_path: Path, launched: list[Launched]
) -> None:
    """Twice; then no restart is left, and by hand it goes on to the same end as a run that nobody disturbed."""
    disturbed = Launched(corpus, tmp_path / "run", "--restarts", "1")
    launched.append(disturbed)
    for start in (1, 2):
        disturbed.trains(start, 12)
        children = disturbed.children()
        assert len(children) == 2
        os.kill(children[-1], signal.SIGKILL)
        began = time.monotonic()
        while _alive(children):
            assert time.monotonic() - began < 15, "the others follow within seconds"
            time.sleep(0.1)
    code, errors = disturbed.end()
    assert code == 128 + signal.SIGKILL
    assert [line for line in errors if "was killed" in line] == [
        "phalanx: rank 1 was killed by SIGKILL; starting again from the last checkpoint (1 of 1)",
        "phalanx: rank 1 was killed by SIGKILL; no restart is left of 1",
    ]
    assert len(errors) <= 4 and all(line.startswith("phalanx: rank") for line in errors), "and what rank 0 lost"
    _undisturbed(ranks, _command(corpus, tmp_path / "run"))
    _undisturbed(ranks, _command(corpus, tmp_path / "whole"))
    steps = {record["step"]: record for record in curve(tmp_path / "run")}
    assert list(steps.values()) == curve(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_all(corpus: Corpus, tmp_path: Path, launched: list[Launched], number: signal.Signals) -> None:
    started = Launched(corpus, tmp_path / "run", "--restarts", "3", "train.steps=100000")
    launched.append(started)
    started.trains(1, 12)
    children = started.children()
    started.process.send_signal(number)
    code, errors = started.end(20)
    assert code == 128 + number
    assert not _alive(children)
    done = max(record["step"] for record in curve(tmp_path / "run"))
    assert Checkpointer(RunFolder(tmp_path / "run")).latest == done, "saved where it stopped"
    assert errors == []
