"""The trainer's own step on tokens that mean nothing: for its time, not for what it learns."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phalanx.config import Config
from phalanx.data.source import Sample
from phalanx.models.family import spec_of
from phalanx.nn.batch import Batch
from phalanx.train.monitor import Silent
from phalanx.train.task import Task
from phalanx.train.trainer import Trainer

SAMPLES = 64


class RandomTokens(list[Sample], Task):
    """A task of random tokens without end, as long and as masked as the real ones."""

    valid = None

    def __init__(self, config: Config) -> None:
        self.spec = spec_of(config.model)
        dice, vocab, length = np.random.default_rng(0), config.model.vocab, config.data.sequence
        tokens = dice.integers(vocab, size=(SAMPLES, length + 1))
        if config.task != "mlm":
            super().__init__(Sample(row[:-1], row[1:], None, None, -1) for row in tokens)
            return

        masked = dice.random((SAMPLES, length)) < config.data.mask_fraction
        segment, padded = np.arange(length) // (length // 2 + 1), np.where(np.arange(length) < length - 2, 0, -1)
        short = dice.random(SAMPLES) < config.data.short_fraction
        super().__init__(
            Sample(row[:-1], np.where(mask, row[:-1], -1), segment, padded.astype(np.int32) if end else None, n % 2)
            for n, (row, mask, end) in enumerate(zip(tokens, masked, short, strict=True))
        )

    @property
    def losses(self) -> tuple[str, ...]:
        """All losses that the model can give."""
        return self.spec.losses

    @property
    def train(self) -> "RandomTokens":
        """Training samples without end: these, again and again."""
        return self

    def __getitem__(self, n: Any) -> Any:
        """Return sample n, from the first again after the last."""
        return super().__getitem__(n % len(self))

    def loss_counts(self, batch: Batch) -> dict[str, Tensor]:
        """Return how many positions are labelled, and how many sequences have a question."""
        assert batch.labels is not None
        counts = {self.losses[0]: (batch.labels >= 0).sum()}
        return counts if batch.related is None else {**counts, self.losses[1]: (batch.related >= 0).sum()}


def synthetic_step(config: Config) -> Callable[[int], None]:
    """Return the trainer's step for a resolved configuration, in each process of a group."""
    torch.manual_seed(0)
    return Trainer(config, RandomTokens(config), None, Silent()).step
