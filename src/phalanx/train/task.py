"""What a trainer needs of a task: samples, and which losses add up to the objective."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from phalanx.config import Config
from phalanx.data.source import Array, Source, Stream
from phalanx.nn.batch import Batch


class Task(Protocol):
    """What is learned. The objective is the sum over `losses` of the model's sum divided by the global count."""

    labelled: bool = False  # whether its sets are files of labelled examples: of any length, and the answers are judged

    @property
    def best_by(self) -> str:
        """What of an evaluation the best checkpoint has most of; of "loss" it has least."""
        return "loss"

    @property
    def losses(self) -> tuple[str, ...]:
        """The model's sums that count."""
        ...

    @property
    def train(self) -> Stream:
        """Training samples without end."""
        ...

    @property
    def valid(self) -> Source | None:
        """Held-out samples, where some are kept apart."""
        ...

    @classmethod
    def fitted(cls, config: Config) -> Config:
        """The configuration with what only the data can say."""
        return config

    def judge(self, answers: Sequence[Array], source: Any) -> dict[str, float]:
        """Scores of what the model answered to each of a held-out source's samples, where the task is labelled."""
        return {}

    def loss_counts(self, batch: Batch) -> dict[str, Tensor]:
        """How many positions of `batch` each loss is over: int64 [] by name."""
        ...


def goal(task: Task, result: Mapping[str, float]) -> float:
    """What the best checkpoint has least of: the loss, or the negative of the value that the task names."""
    return result["loss"] if task.best_by == "loss" else -result[task.best_by]
