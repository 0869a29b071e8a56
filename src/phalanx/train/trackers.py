"""Who hears of a run as it goes: a file of records, the console, TensorBoard, and whoever else `log.trackers` names.

`metrics.jsonl` is the truth; the others show the same. A record reaches the operating system before `train` or `valid`
returns, so `kill -9` costs none. A resumed run drops the records of the steps it will do again: whatever happened on
the way, the file is one curve.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from phalanx.config import Config
from phalanx.errors import InputError
from phalanx.run.records import FILE, Record, cut

Values = Mapping[str, float]


class Tracker(Protocol):
    """Hears of a run, in the first process alone.

    It is made as `kind(config, folder, step)` when training begins or goes on after `step` steps; what it was told of
    later steps by an earlier process will be done again. One that fails is told nothing more, and the run goes on;
    unless it has an attribute `required` that is true: then its failure ends the run.
    """

    def start(self, facts: Mapping[str, object]) -> None:
        """A process begins, with what it knows: parameters, device, dtype, …"""
        ...

    def train(self, step: int, values: Values) -> None:
        """A step of the optimizer ended. `values` are loss, lr, grad_norm, tokens (cumulative), tokens_per_s, mfu,
        memory_gib, seconds (so far), seconds_left (inf in the first step), …
        """
        ...

    def valid(self, step: int, values: Values) -> None:
        """An evaluation on held-out data ended: loss, perplexity, …"""
        ...

    def close(self) -> None:
        """Nothing more comes."""
        ...


class JsonLines:
    """Appends to metrics.jsonl of a run's folder.

    Training records are kept every `log.every` steps, all others always. Numbers that are not finite become null.
    Records of steps after `step` are dropped on opening, and so is a last line that a killed process left torn.
    """

    required = True  # a run without its own records could not be judged, nor go on as one curve

    def __init__(self, config: Config, folder: Path, step: int) -> None:
        self._path, self._every, self._step = folder / FILE, config.log.every, step
        kept = cut(self._path, step)
        self.last = next((record for record in reversed(kept) if record["kind"] == "train"), Record())
        """The newest training record kept, or an empty one: where cumulative counts continue."""
        self._lines = self._path.open("a", buffering=1, encoding="utf-8")

    def start(self, facts: Mapping[str, object]) -> None:
        """Record that a process begins or resumes here."""
        self._append({"step": self._step, "kind": "start", **facts})

    def train(self, step: int, values: Values) -> None:
        """Record one optimizer step."""
        if step % self._every == 0:
            self._append({"step": step, "kind": "train", **_finite(values)})

    def valid(self, step: int, values: Values) -> None:
        """Record one evaluation."""
        self._append({"step": step, "kind": "valid", **_finite(values)})

    def close(self) -> None:
        """Close metrics.jsonl."""
        with explained(self._path):
            self._lines.close()

    def _append(self, record: Record) -> None:
        with explained(self._path):
            self._lines.write(json.dumps(record, allow_nan=False) + "\n")


class TensorBoard:
    """Writes what TensorBoard shows to tensorboard/ in a run's folder, every `log.every` steps."""

    def __init__(self, config: Config, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._every = folder / "tensorboard", config.log.every
        self._board = SummaryWriter(str(self._folder), purge_step=step + 1, flush_secs=5)

    def start(self, facts: Mapping[str, object]) -> None:
        """Show nothing of it."""

    def train(self, step: int, values: Values) -> None:
        """Show one optimizer step."""
        if step % self._every == 0:
            self._show("train", step, values)

    def valid(self, step: int, values: Values) -> None:
        """Show one evaluation."""
        self._show("valid", step, values)

    def close(self) -> None:
        """Flush and close its file."""
        with explained(self._folder):
            self._board.close()

    def _show(self, kind: str, step: int, values: Values) -> None:
        with explained(self._folder):
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an error of the file system into one line that says what to do."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}; make room there, then resume the run") from error


def _finite(values: Values) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
