"""Optimizers, and a task, by which rank 1 does not come to step 3: `optim.name=tests.faults.late:asleep`."""

import ctypes
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from phalanx import registry
from phalanx.config import OptimConfig
from phalanx.tasks.clm import CausalLM

STEPS = 2  # that are done


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
        inner()
        if next(steps) == STEPS and os.environ["RANK"] in late:
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
    return _made(lambda: ctypes.PyDLL(None).sleep(1000), parameters, config)


def slow(parameters: Any, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """All ranks take their time."""
    return _made(lambda: time.sleep(3), parameters, config, ("0", "1"))


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
