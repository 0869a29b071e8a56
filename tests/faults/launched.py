"""A launcher and its ranks, `phalanx train … --procs 2` for instance, in processes that need not import anything.

The launcher is forked from one that has all imported, and forks its ranks where torch's would start an interpreter:
what a start costs falls from seconds to tenths of one.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from phalanx.errors import InputError
from phalanx.run.folder import RunFolder
from tests.train.processes import start
from tests.train.runs import starts_and_steps

PATIENCE = 120  # seconds, against a test that would hang


class Launched:
    """A launcher that trains in a run folder; its ranks are its children."""

    def __init__(self, run: Path, words: Sequence[str]) -> None:
        self.run, self.errors = run, run.with_name(f"{run.name}-errors-{time.monotonic_ns()}")
        self.errors.touch()
        self.process = start(_launch, self.errors, ["train", *words, "--out", str(run)])
        assert self.process.pid
        self.number = self.process.pid
        self.seen = starts_and_steps(run)[0]  # starts before this one's

    def ranks(self) -> list[int]:
        """The processes that it started, by their numbers, in the order of their start."""
        found = []
        for file in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it has just ended
                state, parent = file.read_text().rpartition(")")[2].split()[:2]
                if int(parent) == self.number and state != "Z":
                    found.append(int(file.parent.name))
        return sorted(found)

    def trains(self, starts: int, steps: int) -> list[int]:
        """Its ranks, when they have started so often, and then done so many steps."""
        wait_until(lambda: starts_and_steps(self.run) >= (self.seen + starts, steps) or self._ended())
        assert not self._ended(), self.lines()
        return self.ranks()

    def end(self, patience: float = PATIENCE) -> tuple[int | None, list[str]]:
        """The exit code, and the lines on stderr."""
        self.process.join(patience)
        return self.process.exitcode, self.lines()

    def lines(self) -> list[str]:
        """What it and its ranks said on stderr."""
        return self.errors.read_text().splitlines()

    def kill(self) -> None:
        """End all that is left."""
        for number in [*self.ranks(), self.number]:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.join()

    def _ended(self) -> bool:
        return self.process.exitcode is not None


def wait_until(true: Callable[[], object]) -> None:
    """Wait for something to be so; TimeoutError when it never is."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)


def alive(numbers: Sequence[int]) -> list[int]:
    """Those of these processes that have not ended; a stopped one has not."""
    found = []
    for number in numbers:
        with suppress(OSError):
            if Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(number)
    return found


def is_free(run: Path) -> bool:
    """Whether nobody holds a run folder. (A process is a zombie before the last of its threads lets go.)"""
    try:
        with RunFolder(run).lock():
            return True
    except InputError:
        return False


class _Forked:
    """Stands where torch's launcher has a Popen."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str]) -> None:
        context: Any = multiprocessing.get_context("fork")
        self.process = context.Process(target=_rank, args=(arguments, environment))
        self.process.start()
        self.pid = self.process.pid
        with suppress(ProcessLookupError, PermissionError):
            os.setpgid(self.pid, self.pid)  # torch sends its signals to the group

    def poll(self) -> int | None:
        code: int | None = self.process.exitcode
        return code

    def wait(self, timeout: float) -> None:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("phalanx", timeout)


def _launch(errors: Path, words: list[str]) -> None:
    from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

    from phalanx import cli
    from phalanx.train import monitor

    monitor.peak_flops = lambda *_: 1e9  # measuring takes longer than such a run
    vars_: Any = SubprocessHandler
    vars_._popen = lambda self, arguments, environment: _Forked(arguments[3:], environment)  # after python -m phalanx
    sys.argv = ["phalanx", *words]
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
    os.dup2(os.open(errors, os.O_WRONLY | os.O_APPEND), 2)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    cli.main()


def _rank(arguments: list[str], environment: dict[str, str]) -> None:
    from phalanx import cli

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)  # they were the launcher's
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["phalanx", *arguments]
    cli.main()
