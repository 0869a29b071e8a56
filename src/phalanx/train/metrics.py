"""What a run tells while it learns: records, and the rates in them.

`metrics.jsonl` is the truth; TensorBoard shows the same. A record reaches the operating system before `train` or
`valid` returns, so `kill -9` costs none. A resumed run drops the records of the steps it will do again: whatever
happened on the way, the file is one curve.
"""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from phalanx.errors import InputError
from phalanx.run.records import FILE, Record, cut

if TYPE_CHECKING:
    import torch


class Metrics:
    """Appends to RUN/metrics.jsonl and RUN/tensorboard; a context manager.

    Training records are kept every `every` steps, all others always. Numbers that are not finite become null. Records
    of steps after `resume_step` are dropped on opening, and so is a last line that a killed process left torn.
    """

    def __init__(self, folder: Path, every: int, resume_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = folder / FILE
        kept = cut(path, resume_step)
        self.last = next((record for record in reversed(kept) if record["kind"] == "train"), Record())
        """The newest training record kept, or an empty one: where cumulative counts continue."""
        self._path, self._every, self._step = path, every, resume_step
        self._lines = path.open("a", buffering=1, encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step + 1, flush_secs=5)

    def start(self, facts: Mapping[str, object]) -> None:
        """Note that a process begins or resumes here, with what it knows: parameters, device, dtype, …"""
        self._append({"step": self._step, "kind": "start", **facts})

    def train(self, step: int, values: Mapping[str, float]) -> None:
        """Record one optimizer step."""
        if step % self._every == 0:
            self._record(step, "train", values)

    def valid(self, step: int, values: Mapping[str, float]) -> None:
        """Record one evaluation on held-out data."""
        self._record(step, "valid", values)

    def close(self) -> None:
        """Flush TensorBoard and close both."""
        with self._explained():
            self._board.close()
            self._lines.close()

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _record(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._append({"step": step, "kind": kind, **finite})
        with self._explained():
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def _append(self, record: Record) -> None:
        with self._explained():
            self._lines.write(json.dumps(record, allow_nan=False) + "\n")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{self._path}: {reason}; make room there, then resume the run") from error


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
