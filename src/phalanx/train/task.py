"""What a trainer needs of a task: samples, and which losses add up to the objective."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from phalanx import registry
from phalanx.config import Config
from phalanx.data.source import Array, Source, Stream
from phalanx.errors import InputError
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


def counts_of(task: Task, batch: Batch, name: str) -> Mapping[str, Tensor]:
    """Return what `loss_counts` of the task of that `name` says of a batch. InputError where that is none."""
    with registry.blamed("task", name, "loss_counts()"):
        counts = task.loss_counts(batch)
    if registry.from_outside(name) and not (
        isinstance(counts, Mapping) and all(isinstance(each, Tensor) and each.ndim == 0 for each in counts.values())
    ):
        raise InputError(
            f"task={name}: loss_counts() gave {counts!r:.60}; tensors [] by the names of losses are wanted"
        )
    return counts


def goal(task: Task, result: Mapping[str, float]) -> float:
    """What the best checkpoint has least of: the loss, or the negative of the value that the task names."""
    return result["loss"] if task.best_by == "loss" else -result[task.best_by]
