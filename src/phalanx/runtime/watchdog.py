"""Watchdog: a run that hangs says why. A thread in every process sees that nothing moves any more, and asks the others.

The thread answers while Python is at work or asleep. A process that does not answer was stopped, is gone, or is in code
that lets no thread run; the stack of the latter is printed by faulthandler, which needs no interpreter.
"""

import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch.distributed as dist

from phalanx.errors import InputError
from phalanx.runtime.flight_recorder import ProcessState, process_state, progress_marker
from phalanx.runtime.hang_report import describe, diagnose
from phalanx.runtime.rendezvous import REPORTED, connect, first_here, rank, world

EXIT_CODE = 75  # EX_TEMPFAIL: started again, it may well run
STDERR = 2  # its number, for faulthandler
LEAVE = 30  # seconds in which the main thread itself should hear that another process has died, and why


@contextmanager
def watching(timeout: float) -> Iterator[None]:
    """Watch over the processes of the group until the block ends."""
    if not dist.is_initialized():
        yield
        return
    watchdog = Watchdog(timeout)
    watchdog.start()
    try:
        yield
    finally:
        watchdog.over.set()
        watchdog.join(timeout=5)


class Stillness:
    """Measure of the `seconds` for which a process has not moved, by looks of which one is due every `tick` seconds.

    A look that comes late counts as two ticks: the process was itself stopped, or starved, and has not waited for
    anybody meanwhile. (Counted by the clock it would blame others as soon as it is woken.)
    """

    def __init__(self, tick: float) -> None:
        self.tick, self.seconds = tick, 0.0
        self.place: tuple[object, ...] = ()
        self.looked = time.monotonic()

    def seen(self, progress_marker: tuple[object, ...], now: float) -> float:
        """Take note of where the process is at time `now`. Return the seconds for which it has been there."""
        passed = min(now - self.looked, 2 * self.tick)
        self.seconds = self.seconds + passed if progress_marker == self.place else 0.0
        self.place, self.looked = progress_marker, now
        return self.seconds


class Watchdog(threading.Thread):
    """Ends the process with EXIT_CODE when another has not come for `timeout` seconds to where it waits.

    This thread sees whether the process moves; another talks to the store, which itself may be kept by a process that
    was stopped. Alarms are numbered: who raises one, when nothing has moved here for so long, gets everybody's answer
    and judges.
    """

    def __init__(self, timeout: float) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.timeout, self.tick = timeout, min(5.0, timeout / 10)
        self.patience = max(5.0, 3 * self.tick)  # with the answers of others
        self.over = threading.Event()
        self.store = connect(self.patience)
        self.process = f"process {os.getpid()} on {socket.gethostname()}"
        self.store.set(f"pid/{rank()}", json.dumps([os.getpid(), socket.gethostname()]))
        self.store.set(f"process/{rank()}", self.process)
        self.alarm = 0
        self.still = Stillness(self.tick)
        self.answered = time.monotonic()  # when the store did last
        self.keeper: tuple[int, str] | None = None  # rank 0's process and machine
        self.reporting = threading.Lock()

    def run(self) -> None:
        """Watch until `over` is set."""
        threading.Thread(target=self._talk, name="watchdog's talk", daemon=True).start()
        while not self.over.is_set():
            faulthandler.dump_traceback_later(self.timeout, file=STDERR)
            now = time.monotonic()
            if self.still.seen(progress_marker(), now) > self.timeout and now - self.answered > self.patience:
                self._abandoned()
            self.over.wait(self.tick)
        faulthandler.cancel_dump_traceback_later()

    def _talk(self) -> None:
        try:
            while not self.over.wait(self.tick if self.keeper else 0.1):
                self._look()
                self.answered = time.monotonic()
        except dist.DistError:  # rank 0 has died
            if not self.over.wait(LEAVE):
                self._abandoned()

    def _look(self) -> None:
        if self.store.check(["verdict"]):
            self._leave(last=rank() == 0)
        if self.keeper is None and self.store.check(["pid/0"]):
            self.keeper = json.loads(self.store.get("pid/0"))

        raised = f"alarm/{self.alarm}"
        mine = self.still.seconds > self.timeout and self.store.add(raised, 1) == 1
        if mine or self.store.check([raised]):
            self.store.set(f"answer/{self.alarm}/{rank()}", json.dumps(process_state(self.process, self.still.seconds)))
            if mine:
                self._judge(self._answers())
            self.alarm += 1
            self.still.seconds = 0

    def _abandoned(self) -> None:
        """End this process, as the store is silent: whoever keeps it is to blame. Woken, where it was stopped, it
        learns that too.
        """
        if not first_here() and rank() != 1:
            self.reporting.acquire(blocking=False)  # others tell
        else:
            name = f"rank 0 (process {self.keeper[0]} on {self.keeper[1]})" if self.keeper else "rank 0"
            self._report(
                f"the run hangs: rank {rank()} has not moved for {self.still.seconds:.0f} s, and {name}, which keeps "
                "the store, does not answer: it was stopped, or it or its machine is gone\n"
                f"  {describe(rank(), process_state(self.process, self.still.seconds))}"
            )

            if self.keeper:
                _wake(*self.keeper)
            with suppress(InputError, dist.DistError):
                store = connect(self.patience)  # another than that which waits for an answer in vain
                store.add(REPORTED, 1)
                store.set("verdict", "")

        self._leave(last=True)  # or who tells would hear that the others are gone

    def _answers(self) -> dict[int, ProcessState]:
        """Return the states of all processes that answer within a few ticks, by rank."""
        answers: dict[int, ProcessState] = {}
        deadline = time.monotonic() + self.patience
        while len(answers) < world() and time.monotonic() < deadline:
            for number in range(world()):
                key = f"answer/{self.alarm}/{number}"
                if number not in answers and self.store.check([key]):
                    answers[number] = json.loads(self.store.get(key))
            self.answered = time.monotonic()
            time.sleep(self.tick / 5)
        return answers

    def _judge(self, answers: dict[int, ProcessState]) -> None:
        silent = {n: self.store.get(f"process/{n}").decode() for n in range(world()) if n not in answers}
        report = diagnose(answers, silent, self.timeout)
        if not report or self.over.is_set() or self.store.check(["verdict"]):
            return
        self._report(report)
        self.store.add(REPORTED, 1)  # who loses another from now on need not say so
        self.store.set("verdict", "")
        for number in silent:
            _wake(*json.loads(self.store.get(f"pid/{number}")))
        self._leave(last=True)

    def _leave(self, last: bool) -> None:
        """End the process, or let the others end before it: rank 0's store tells them why."""
        if last:
            time.sleep(3 * self.tick)
        os._exit(EXIT_CODE)

    def _report(self, report: str) -> None:
        """Print a report, unless the other thread has: both go on to end the process, whether or not anyone reads."""
        if self.reporting.acquire(blocking=False):  # and kept: one report is enough
            with suppress(OSError, ValueError):  # a pipe that nobody reads, a stream that is closed
                print(f"phalanx: {report}\n  the run ends with exit code {EXIT_CODE}", file=sys.stderr, flush=True)


def _wake(process: int, machine: str) -> None:
    """Let a stopped process of this machine go on, so that it can be ended."""
    if machine == socket.gethostname():
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGCONT)
