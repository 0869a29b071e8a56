"""Whether a run is slow because other processes use the cores.

The threads of a matrix product wait for each other at its end, so one that has lost its core to another process holds
up all: on a crowded machine two threads were seen to take thirty times as long as one. The kernel counts how long a
thread could have run and had no core, which nothing but a crowd explains.
"""

import time
from collections.abc import Callable

from phalanx import processor

SECONDS = 5.0  # between two judgements
WAITED = 0.35  # of the time: half of it is what one other process on the same core costs
SLOW = 0.1  # of the measured product's speed; a run that does more than that makes good use of what it gets


class CoreWait:
    """How much of the time since it was made the calling thread has waited for a core."""

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, waited: Callable[[], float] = processor.waited
    ) -> None:
        self._clock, self._waited = clock, waited
        self._start, self._before = clock(), waited()

    @property
    def seconds(self) -> float:
        """Return the seconds since it was made."""
        return self._clock() - self._start

    def share(self) -> float:
        """Return the part of that time that the thread has waited, from 0 to 1."""
        seconds = self.seconds
        return (self._waited() - self._before) / seconds if seconds > 0 else 0.0


class Contention:
    """Judges a run of so many threads every few seconds, from its first step's end on, and gives its advice once."""

    def __init__(
        self,
        threads: int,
        clock: Callable[[], float] = time.perf_counter,
        waited: Callable[[], float] = processor.waited,
    ) -> None:
        self._threads, self._clock, self._waited = threads, clock, waited
        self._waiting: CoreWait | None = None
        self._said = False

    def step(self, speed: float) -> str:
        """Return what to tell of a step that ended, at this share of the measured product's speed; "" for nothing."""
        if self._said:
            return ""
        if self._waiting and self._waiting.seconds < SECONDS:
            return ""

        note = advice(self._waiting.share(), speed, self._threads) if self._waiting else ""
        self._waiting = CoreWait(self._clock, self._waited)
        self._said = bool(note)
        return note


def advice(waited: float, speed: float, threads: int) -> str:
    """Return what to tell a user whose run waits for a core for this share of the time and multiplies at this share of
    the measured product's speed; "" where it is fast enough, or slow for reasons of its own.
    """
    if waited < WAITED or speed >= SLOW:
        return ""
    cause = f"Steps are slow because other processes use the cores: this one waits for a core {waited:.0%} of the time."
    if threads == 1:
        return f"{cause} It will be faster when those end."
    return (
        f"{cause} Its {threads} threads also wait for each other; one alone is faster in such a crowd. Press Ctrl-C, "
        "which saves, and give the same command with OMP_NUM_THREADS=1 before it."
    )
