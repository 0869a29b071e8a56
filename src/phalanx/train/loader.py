"""The batch of a step, made in a thread while the step before it runs.

A batch is a pure function of the step, so the loader has no state: resuming is asking for another step.
"""

from concurrent.futures import Future, ThreadPoolExecutor

from phalanx.config import Config
from phalanx.data.source import ask
from phalanx.models.family import spec_of
from phalanx.nn.batch import Batch
from phalanx.parallel.mesh import ALONE, Axis
from phalanx.train.collate import make_batch, trimmed
from phalanx.train.schedule import batch_size, samples_before
from phalanx.train.task import Task


class Loader:
    """`batch(step)`: this replica's sequences of a step's batch. Ask for steps in order and the next one is ready."""

    def __init__(self, task: Task, config: Config, replicas: Axis = ALONE) -> None:
        self.task, self.config, self.replicas = task, config, replicas
        self.positions = spec_of(config.model).positions
        self.pool = ThreadPoolExecutor(1, "loader")
        self.next: tuple[int, Future[Batch]] | None = None

    def make(self, step: int, most: int = 1 << 30) -> Batch:
        """The batch of 0-based `step`, or as many of its sequences as `most`, computed now."""
        train = self.config.train
        rows = min(batch_size(step, train) // self.replicas.size, most)
        row = rows * self.replicas.rank
        first = samples_before(step, train) + row
        samples = ask(self.task.train.__getitem__, range(first, first + rows), self.config.data.train)
        batch = make_batch(samples, self.positions, train.seed, step, row, self.config.data.restart_positions)
        return trimmed(batch, samples, self.config) if self.task.labelled else batch

    def batch(self, step: int) -> Batch:
        """The batch of 0-based `step`; starts on the one after it."""
        ready = self.next[1].result() if self.next and self.next[0] == step else self.make(step)
        self.next = (step + 1, self.pool.submit(self.make, step + 1))
        return ready

    def close(self) -> None:
        """Let go of the thread."""
        self.pool.shutdown(cancel_futures=True)
