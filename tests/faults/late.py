"""Optimizers, and a task, by which rank 1 does not come to step 3: `optim.name=tests.faults.late:Asleep`.

Until then the watchdog is patient, however slow a busy machine makes the start; from there on it is quick.
"""

import ctypes
import faulthandler
import os
import signal
import threading
import time
from typing import Any

import torch
import torch.distributed as dist

from phalanx.runtime.watchdog import Watchdog
from phalanx.tasks.clm import CausalLM
from phalanx.train.optimizers import AdamW

STEPS = 2  # that are done
TIMEOUT = 1.0  # seconds of the watchdog from then on


def watchdog() -> Watchdog:
    """This process's."""
    (found,) = (thread for thread in threading.enumerate() if isinstance(thread, Watchdog))
    return found


def sleeping() -> None:
    """Where the late one is."""
    time.sleep(1000)


def _elsewhere() -> None:
    dist.all_gather([torch.empty(7), torch.empty(7)], torch.ones(7))


class Late(AdamW):
    """AdamW, after whose second step ranks meet with a fault."""

    def build(self, parameters: Any) -> list[torch.optim.Optimizer]:
        """Return AdamW, whose third step does not come."""
        made = super().build(parameters)
        inner, steps = made[0].step, iter(range(1, 1000))

        def step() -> None:
            while not watchdog().keeper:
                time.sleep(0.01)
            inner()
            if next(steps) == STEPS:
                found = watchdog()
                found.timeout, found.tick = TIMEOUT, TIMEOUT / 10
                found.still.tick = found.tick
                if os.environ["RANK"] in self.late():
                    self.fault()

        vars(made[0])["step"] = step
        return made

    def late(self) -> tuple[str, ...]:
        """Return the ranks that do not come."""
        return ("1",)

    def fault(self) -> None:
        """Be where the late one is."""


class Asleep(Late):
    """Rank 1 sleeps."""

    def fault(self) -> None:
        """Sleep."""
        sleeping()


class Elsewhere(Late):
    """Rank 1 is in a collective of its own."""

    def fault(self) -> None:
        """Gather what nobody gives."""
        _elsewhere()


class Stopped(Late):
    """Rank 1 is stopped."""

    def fault(self) -> None:
        """Stop."""
        os.kill(os.getpid(), signal.SIGSTOP)


class KeeperStopped(Stopped):
    """Rank 0 is stopped, and with it the store."""

    def late(self) -> tuple[str, ...]:
        """Return the keeper."""
        return ("0",)


class Locked(Late):
    """Rank 1 is in a function of C that does not let go of the interpreter."""

    def fault(self) -> None:
        """Hold all."""
        _hold_all()


def _hold_all() -> None:
    faulthandler.dump_traceback_later(TIMEOUT)  # as the watchdog does, from its next round on
    ctypes.PyDLL(None).sleep(1000)


class Slow(Late):
    """All ranks take so much time that an alarm is raised."""

    def late(self) -> tuple[str, ...]:
        """Return both."""
        return ("0", "1")

    def fault(self) -> None:
        """Wait for the alarm."""
        before = watchdog().alarm
        while watchdog().alarm == before:
            time.sleep(0.01)


class Punctual(Late):
    """None is late, in the optimizer."""

    def late(self) -> tuple[str, ...]:
        """Return nobody."""
        return ()


class Held(AdamW):
    """AdamW, with which rank 1 does seven steps and no more, where its launcher may start it again."""

    def build(self, parameters: Any) -> list[torch.optim.Optimizer]:
        """Return AdamW, whose eighth step does not come."""
        made = super().build(parameters)
        inner, steps = made[0].step, iter(range(1, 1000))

        def step() -> None:
            if os.environ["TORCHELASTIC_MAX_RESTARTS"] != "0" and os.environ["RANK"] == "1" and next(steps) > 7:
                sleeping()
            inner()

        vars(made[0])["step"] = step
        return made


class Reading(CausalLM):
    """Rank 1 waits for a sample."""

    @property
    def train(self) -> Any:  # type: ignore[override]
        """The samples of the run, one of which never comes."""
        samples = super().train

        class Slow:
            def __getitem__(self, n: int) -> Any:
                if n >= 8 * STEPS and os.environ["RANK"] == "1":
                    sleeping()
                return samples[n]

        return Slow()
