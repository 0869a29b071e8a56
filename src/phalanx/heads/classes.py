"""A class, or a number, of a text or of a pair of texts (Devlin et al., arXiv 1810.04805, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from phalanx.data.source import Array
from phalanx.heads.head import TaskHead, classified

if TYPE_CHECKING:
    from torch import Tensor

    from phalanx.nn.answer import Split
    from phalanx.nn.batch import Batch

REGRESSION = "regression"  # the problem_type of numbers in config.json


class Class(NamedTuple):
    """The likeliest class, and the probability of each."""

    label: str
    probabilities: dict[str, float]


class Number(NamedTuple):
    """A number that belongs to a text, as how alike two sentences are."""

    value: float


class ClassesHead(TaskHead):
    """The class of a text: a logit for each."""

    task = "classes"
    asks = "related"
    verb, does = "classify", "classify"
    named = True
    hugging_face = "ForSequenceClassification"

    def loss(self, logits: Tensor, batch: Batch, split: Split) -> tuple[Tensor, ...]:
        """Return the cross-entropy, and how many texts have the right class."""
        return classified(logits, self.right(batch))

    def decode(self, logits: Array) -> Class:
        """Return the likeliest class. Probabilities of classes that do not exclude one another do not sum to 1."""
        chances = (softmax(logits) if self.exclusive else _sigmoid(logits)).tolist()
        return Class(self.names[int(logits.argmax())], dict(zip(self.names, chances, strict=True)))

    def lines(self, answer: Class) -> list[str]:
        """Return the classes, the likeliest first."""
        likeliest = sorted(answer.probabilities.items(), key=lambda item: -item[1])
        return [f"{label}  {chance:.1%}" for label, chance in likeliest]

    @classmethod
    def classes_of(cls, facts: Mapping[str, Any]) -> int | None:
        """Return how many classes there are; one alone is a number."""
        count = super().classes_of(facts)
        return None if count == 1 or facts.get("problem_type") == REGRESSION else count


class ValueHead(TaskHead):
    """A number that belongs to a text, as how alike two sentences are."""

    task = "value"
    asks = "value"
    verb, does, example = "classify", "give numbers", "stsb"
    hugging_face = "ForSequenceClassification"

    @classmethod
    def width(cls, classes: int) -> int:
        """Return 1: the number."""
        return 1

    def loss(self, logits: Tensor, batch: Batch, split: Split) -> tuple[Tensor, ...]:
        """Return the sum of the squared errors."""
        right = self.right(batch)
        return ((logits[:, 0] - right).where(right.isfinite(), 0).square().sum(),)

    def decode(self, logits: Array) -> Number:
        """Return the number."""
        return Number(float(logits[0]))

    def lines(self, answer: Number) -> list[str]:
        """Return the number alone."""
        return [f"{answer.value:.4f}"]

    def facts(self) -> dict[str, Any]:
        """Return what says of one class that it is a number."""
        return {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "problem_type": REGRESSION}


def softmax(logits: Array) -> Array:
    """Return the probabilities of classes of which one is right: [classes]."""
    shares = np.exp(logits - logits.max())  # the largest is 1: nothing overflows
    chances: Array = shares / shares.sum()
    return chances


def _sigmoid(logits: Array) -> Array:
    chances: Array = 1 / (1 + np.exp(-logits.clip(-80, 80)))  # exp overflows float32 at 89
    return chances
