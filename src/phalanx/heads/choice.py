"""Which of several candidates goes with a text (Devlin et al., arXiv 1810.04805, section 4.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from phalanx.data.source import Array
from phalanx.heads.head import TaskHead, classified

if TYPE_CHECKING:
    from torch import Tensor

    from phalanx.nn.answer import Split
    from phalanx.nn.batch import Batch

CANDIDATES = 4  # of a question, where config.json does not say


class Chosen(NamedTuple):
    """The number of the candidate that fits best, and the scores of all."""

    candidate: int
    scores: list[float]


class ChoiceHead(TaskHead):
    """How well a candidate fits; those of a question are rows that follow one another."""

    task = "choice"
    asks = "related"
    grouped = True
    does, example = "choose", "swag"
    form = "race"
    hugging_face = "ForMultipleChoice"

    @classmethod
    def width(cls, classes: int) -> int:
        """Return 1: how well a candidate fits."""
        return 1

    def loss(self, logits: Tensor, batch: Batch, split: Split) -> tuple[Tensor, ...]:
        """Return the cross-entropy over the candidates of each question, and how often the right one has the highest
        score. The row of the right candidate has a label of 1.
        """
        candidates = self.part.candidates
        logits, right = logits.view(-1, candidates), self.right(batch).view(-1, candidates) == 1
        return classified(logits, right.long().argmax(1).where(right.any(1), -1))

    @classmethod
    def count(cls, batch: Batch) -> Tensor | None:
        """Return how many questions there are."""
        return None if batch.related is None else (batch.related == 1).sum()

    def decode(self, logits: Array) -> Chosen:
        """Return the candidate with the highest score; logits [candidates]: those of all rows of a question."""
        return Chosen(int(logits.argmax()), logits.tolist())

    @classmethod
    def classes_of(cls, facts: Mapping[str, Any]) -> int | None:
        """Return how many candidates a question has."""
        return facts.get("num_choices") or CANDIDATES

    def facts(self) -> dict[str, Any]:
        """Return how many candidates a question has."""
        return {"num_choices": self.part.candidates}
