"""Rates and memory: what a run tells of itself beside its losses."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Throughput:
    """Tokens a second and the time that is left, from the moments at which steps end.

    Time inside `paused()` (evaluation, say) counts in `seconds` and in `eta`, not in the rates. On a GPU, call `step`
    after the step's values were read, or it times the launching only.
    """

    def __init__(self, seconds: float = 0.0, window: int = 50, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._before, self._start, self._pauses = clock, seconds, clock(), 0.0
        self._marks = deque([(0.0, 0)], maxlen=window + 1)  # (active seconds, tokens) when each step ended

    def step(self, tokens: int) -> None:
        """A step of `tokens` ended."""
        self._marks.append((self._active(), self._marks[-1][1] + tokens))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that is not training."""
        began = self._clock()
        try:
            yield
        finally:
            self._pauses += self._clock() - began

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, earlier processes' included."""
        return self._before + self._clock() - self._start

    @property
    def tokens_per_s(self) -> float:
        """Over the last steps of the window."""
        (start, before), (end, after) = self._marks[0], self._marks[-1]
        return (after - before) / (end - start) if end > start else 0.0

    def eta(self, steps_left: int) -> float:
        """Seconds until `steps_left` more steps are done, at the window's pace and with pauses as so far."""
        (start, _), (end, _) = self._marks[0], self._marks[-1]
        if end <= start:
            return math.inf
        return steps_left * (end - start) / (len(self._marks) - 1) * (1 + self._pauses / end)

    def _active(self) -> float:
        return self._clock() - self._start - self._pauses


def memory_gib(device: "torch.device") -> float:
    """The most memory this process held so far, in GiB: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        import resource
        import sys

        unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, others KiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
    # not ru_maxrss: on Linux a process inherits its parent's
    return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) / 2**20
