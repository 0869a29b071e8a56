"""Optimizers, and a task, by which rank 1 does not come to step 3: `optim.name=tests.faults.late:asleep`.

Until then the watchdog is patient, however slow a busy machine makes the start; from there on it is quick.
"""

import ctypes
import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from phalanx import registry
from phalanx.config import OptimConfig
from phalanx.runtime.watchdog import Watchdog
from phalanx.tasks.clm import CausalLM

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


def _made(
    fault: Callable[[], object], parameters: Any, config: OptimConfig, late: tuple[str, ...] = ("1",)
) -> list[torch.optim.Optimizer]:
    """AdamW, after whose second step rank 1 meets with a fault."""
    made: list[torch.optim.Optimizer] = registry.OPTIMIZERS.find("adamw")(parameters, config)
    inner, steps = made[0].step, iter(range(1, 1000))

    def step() -> None:
        while not watchdog().keeper:
            time.sleep(0.01)
        inner()
        if next(steps) == STEPS:
            found = watchdog()
            found.timeout, found.tick = TIMEOUT, TIMEOUT / 10
            found.still.tick = found.tick
            if os.environ["RANK"] in late:
                fault()

    vars(made[0])["step"] = step
    return made


def asleep(parameters: Any, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """Rank 1 sleeps."""
    return _made(sleeping, parameters, config)


def elsewhere(parameters: Any, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """Rank 1 is in a collective of its own."""
    return _made(_elsewhere, parameters, config)


def stopped(parameters: Any, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """Rank 1 is stopped."""
    return _made(lambda: os.kill(os.getpid(), signal.SIGSTOP), parameters, config)


def keeper_stopped(parameters: Any, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """Rank 0 is stopped, and with it the store."""
    return _made(lambda: os.kill(os.getpid(), signal.SIGSTOP), parameters, config, ("0",))


def locked(parameters: Any, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """Rank 1 is in a function of C that does not let go of the interpreter."""
    return _made(_hold_all, parameters, config)


def _hold_all() -> None:
    faulthandler.dump_traceback_later(TIMEOUT)  # as the watchdog does, from its next round on
    ctypes.PyDLL(None).sleep(1000)


def slow(parameters: Any, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """All ranks take so much time that an alarm is raised."""
    return _made(_until_an_alarm, parameters, config, ("0", "1"))


def _until_an_alarm() -> None:
    before = watchdog().alarm
    while watchdog().alarm == before:
        time.sleep(0.01)


def punctual(parameters: Any, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """None is late, in the optimizer."""
    return _made(lambda: None, parameters, config, ())


def held(parameters: Any, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """AdamW, with which rank 1 does seven steps and no more, where its launcher may start it again."""
    made: list[torch.optim.Optimizer] = registry.OPTIMIZERS.find("adamw")(parameters, config)
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
