"""The part of a text that answers a question (Devlin et al., arXiv 1810.04805, section 4.2 and 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from phalanx.data.source import Array
from phalanx.data.windows import BEGINS, Window
from phalanx.heads.head import TaskHead
from phalanx.score.spans import Located, Span, best, likeliest

if TYPE_CHECKING:
    from torch import Tensor

    from phalanx.nn.answer import Split
    from phalanx.nn.batch import Batch


class SpanHead(TaskHead):
    """Two logits of every token: whether the answer begins there, and whether it ends there; both at the first token if
    the text has none.
    """

    task = "span"
    asks = "labels"
    pooled, dropped, whole = False, False, True
    verb, does, example = "answer", "answer questions", "squad"
    form = "squad"
    hugging_face, classifier = "ForQuestionAnswering", "qa_outputs"
    outputs = ("start_logits", "end_logits")

    @classmethod
    def width(cls, classes: int) -> int:
        """Return 2: the logits of a beginning and of an end."""
        return 2

    def loss(self, logits: Tensor, batch: Batch, split: Split) -> tuple[Tensor, ...]:
        """Return the mean of the cross-entropies of beginning and end over all tokens of a sequence, and how many
        sequences have both right. A label of 1 says that the answer begins there, 2 that it ends.
        """
        from phalanx.nn.loss import cross_entropy

        # A rank of a layout that splits sequences has only a part of each, and the softmax is over all tokens.
        logits, labels = split.together(logits, batch)
        begin, end = (_first(labels >> bit & 1) for bit in range(2))
        total = cross_entropy(logits[..., 0], begin) / 2 + cross_entropy(logits[..., 1], end) / 2
        right = (logits[..., 0].argmax(1) == begin) & (logits[..., 1].argmax(1) == end)
        return total / split.ways, right.sum() / split.ways  # which all ranks of a sequence compute alike

    @classmethod
    def count(cls, batch: Batch) -> Tensor | None:
        """Return how many windows there are: each has one beginning."""
        assert batch.labels is not None
        return ((batch.labels > 0) & (batch.labels & BEGINS > 0)).sum()

    def decode(self, logits: Array) -> Span:
        """Return the likeliest span of one window, however long."""
        return best(logits, len(logits))

    def answers(self, parts: Sequence[Window], logits: Sequence[Array], questions: int, longest: int) -> list[Located]:
        """Return the likeliest span of each question over all windows (`parts`) of its context."""
        return likeliest(parts, logits, questions, longest)


def _first(marks: Tensor) -> Tensor:
    """Return where each row's first mark is, -1 where it has none: [batch, seq] -> [batch]."""
    return marks.argmax(1).where(marks.any(1), -1)
