"""A task with a head of its own as another package would bring them: `task=tests.strangers.tasks:Stars`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from phalanx.config import Config
from phalanx.data.examples import Row
from phalanx.data.source import Array
from phalanx.heads.head import TaskHead
from phalanx.nn.answer import Split
from phalanx.nn.batch import Batch
from phalanx.tasks.labelled import Held
from phalanx.tasks.texts import Texts


class Rating(NamedTuple):
    """The stars, and how likely there are more than 1, than 2, …"""

    stars: int
    more: list[float]


class OrdinalHead(TaskHead):
    """Classes in order: how likely a text is above each of them but the last (Frank and Hall, ECML 2001)."""

    task, asks = "tests.strangers.tasks:Stars", "related"
    verb, does, named = "classify", "rate", True
    hugging_face = "ForSequenceClassification"

    def loss(self, logits: Tensor, batch: Batch, split: Split) -> tuple[Tensor, ...]:
        right = self.right(batch)[:, None]
        more = (right > torch.arange(self.part.width, device=right.device)).float()
        errors = F.binary_cross_entropy_with_logits(logits, more, reduction="none")
        return ((errors * (right >= 0)).sum(),)

    def decode(self, logits: Array) -> Rating:
        more = 1 / (1 + np.exp(-logits))
        return Rating(1 + int((more > 0.5).sum()), more.tolist())


class Stars(Texts):
    """How many stars a review gives, 1 to 5."""

    head = "tests.strangers.tasks:OrdinalHead"
    metrics = ("near",)

    @classmethod
    def fitted(cls, config: Config) -> Config:
        return config.model_copy(update={"model": config.model.tuned(cls.head, classes=4)})

    def answer(self, row: Row) -> dict[str, Any]:
        return {"related": int(row.label) - 1}

    def judge(self, answers: Sequence[Array], source: Held) -> dict[str, float]:
        stars = np.array([self.model_head.decode(logits).stars for logits in answers])
        return {"near": float(np.mean(abs(stars - [int(row.label) for row in source.examples]) < 2))}
