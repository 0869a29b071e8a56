"""What a trainer needs of a task: samples, and which losses add up to the objective."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from phalanx.data.source import Documents, Sample, Source, Stream
from phalanx.nn import random
from phalanx.nn.batch import Batch


class Task(Protocol):
    """A pretraining task. The objective is the sum over `losses` of the model's sum divided by the global count."""

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

    def source(self, documents: Documents) -> Source:
        """The samples of a range of documents."""
        ...

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """How many positions of `batch` each loss is over: int64 [] by name."""
        ...


def make_batch(samples: Sequence[Sample], positions: int, seed: int, step: int, first: int = 0) -> Batch:
    """Samples as tensors, with the coordinates that make their random numbers: rows of the global batch from `first`.

    `document` is given only if some sample needs it, so that attention without a mask keeps its fast path.
    """
    rows, length = len(samples), len(samples[0].tokens)
    index = torch.arange(first, first + rows)[:, None] * positions + torch.arange(length)
    segment = related = document = None
    if samples[0].segment is not None:
        segment = _stack([s.segment for s in samples])
    if any(s.related >= 0 for s in samples):
        related = torch.tensor([s.related for s in samples])
    if any(s.document is not None for s in samples):
        whole = torch.zeros(length, dtype=torch.int32)
        document = torch.stack([whole if s.document is None else torch.from_numpy(s.document) for s in samples])
    key = torch.full((rows,), random.key(seed, step), dtype=torch.int32)
    tokens, labels = _stack([s.tokens for s in samples]), _stack([s.labels for s in samples])
    return Batch(tokens, index, key, labels, segment, document, related)


def _stack(arrays: Sequence[object]) -> Tensor:
    return torch.stack([torch.as_tensor(array, dtype=torch.int64) for array in arrays])
