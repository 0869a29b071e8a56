"""The batch of a step, made in a thread while the step before it runs.

A batch is a pure function of the step, so the loader has no state: resuming is asking for another step.
"""

from concurrent.futures import Future, ThreadPoolExecutor

from phalanx.config import Config
from phalanx.nn.batch import Batch
from phalanx.train.schedule import batch_size, samples_before
from phalanx.train.task import Task, make_batch


class Loader:
    """`batch(step)`: the whole global batch of a step. Ask for steps in order and the next one is ready."""

    def __init__(self, task: Task, config: Config) -> None:
        self.task, self.config = task, config
        self.pool = ThreadPoolExecutor(1, "loader")
        self.next: tuple[int, Future[Batch]] | None = None

    def make(self, step: int) -> Batch:
        """The batch of 0-based `step`, computed now."""
        train = self.config.train
        first = samples_before(step, train)
        samples = [self.task.train[n] for n in range(first, first + batch_size(step, train))]
        return make_batch(samples, self.config.model.positions, train.seed, step)

    def batch(self, step: int) -> Batch:
        """The batch of 0-based `step`; starts on the one after it."""
        ready = self.next[1].result() if self.next and self.next[0] == step else self.make(step)
        self.next = (step + 1, self.pool.submit(self.make, step + 1))
        return ready

    def close(self) -> None:
        """Let go of the thread."""
        self.pool.shutdown(cancel_futures=True)
