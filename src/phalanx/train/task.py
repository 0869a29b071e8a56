"""What a trainer needs of a task: samples, and which losses add up to the objective."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from phalanx.config import Config
from phalanx.data.source import Array, Sample, Source, Stream
from phalanx.data.tokenize import Tokenizer
from phalanx.nn import random
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

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """How many positions of `batch` each loss is over: int64 [] by name."""
        ...


class Kind(Protocol):
    """The class of a task."""

    labelled: bool

    def fitted(self, config: Config) -> Config:
        """As the task's."""
        ...

    def __call__(self, config: Config, tokenizer: Tokenizer) -> Any:
        """The task of a configuration, its sets not yet open."""
        ...


def goal(task: Task, result: Mapping[str, float]) -> float:
    """What the best checkpoint has least of: the loss, or the negative of the value that the task names."""
    return result["loss"] if task.best_by == "loss" else -result[task.best_by]


def make_batch(samples: Sequence[Sample], positions: int, seed: int, step: int, first: int = 0) -> Batch:
    """Samples as tensors, with the coordinates that make their random numbers: rows of the global batch from `first`.

    `document` is given only if some sample needs it, so that attention without a mask keeps its fast path.
    """
    rows, length = len(samples), len(samples[0].tokens)
    index = torch.arange(first, first + rows)[:, None] * positions + torch.arange(length)
    segment = related = document = value = None
    if samples[0].segment is not None:
        segment = _stack([s.segment for s in samples])
    if any(s.related >= 0 for s in samples):
        related = torch.tensor([s.related for s in samples])
    if any(s.document is not None for s in samples):
        whole = torch.zeros(length, dtype=torch.int32)
        document = torch.stack([whole if s.document is None else torch.from_numpy(s.document) for s in samples])
    if not all(math.isnan(s.value) for s in samples):
        value = torch.tensor([s.value for s in samples])
    key = torch.full((rows,), random.key(seed, step), dtype=torch.int32)
    tokens, labels = _stack([s.tokens for s in samples]), _stack([s.labels for s in samples])
    return Batch(tokens, index, key, labels, segment, document, related, value)


def trimmed(batch: Batch, samples: Sequence[Sample], config: Config) -> Batch:
    """The batch without positions that only fill up all of its `samples`: one of few lengths, all of which the layout
    can split. A pipeline's stages expect one length, so there nothing is cut.
    """
    layout, length = config.layout, config.data.sequence
    if layout.pp > 1:
        return batch
    parts = (2 * layout.cp if layout.cp > 1 else 1) * layout.tp
    step = math.ceil(max(16, length / 8) / parts) * parts
    keep = min(length, math.ceil(max(1, *(s.used for s in samples)) / step) * step)
    return batch if keep == length else batch.columns(torch.arange(keep))


def _stack(arrays: Sequence[object]) -> Tensor:
    return torch.stack([torch.as_tensor(array, dtype=torch.int64) for array in arrays])
