"""What stands on the transformer when a BERT is fine-tuned."""

import torch
from torch import Tensor, nn

from phalanx.nn import loss, slots
from phalanx.nn.batch import Batch
from phalanx.nn.dropout import Dropout
from phalanx.nn.linear import Linear, Slot
from phalanx.spec.model import Head

POOLED = ("classes", "value", "choice")  # what is answered from the first token


class AnswerHead(nn.Module):
    """What a fine-tuned BERT answers (arXiv 1810.04805, section 4): from the pooled first token a class (`classes`), a
    number (`value`) or how well a candidate fits (`choice`); from every token its class (`tokens`), or whether the
    answer begins or ends there (`span`).

    A layout that splits sequences gives `whole` and `everywhere`, which put them together, with gradient and without,
    and lets each of its `ways` count a part of what all compute alike.
    """

    def __init__(self, part: Head, site: int) -> None:
        super().__init__()
        leaves = dict(part.matrices())
        self.kind, self.candidates = part.loss, part.candidates
        self.pooler = Linear(leaves["answer.pooler"]) if "answer.pooler" in leaves else None
        self.dropout = Dropout(part.drop, site)
        self.classifier = Linear(leaves["answer.classifier"])
        self.whole: Slot = slots.same
        self.everywhere: Slot = slots.same
        self.ways = 1

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """hidden [batch, seq, hidden] -> float32 logits: [batch, classes], of value and choice [batch, 1], of tokens
        [batch, seq, classes], of span [batch, seq, 2]
        """
        index = batch.index
        if self.pooler is not None:
            hidden, index = torch.tanh(self.pooler(hidden[:, :1])), index[:, :1]
        logits: Tensor = self.classifier(self.dropout(hidden, index, batch.key)).float()
        return logits if self.pooler is None else logits[:, 0]

    def sums(self, hidden: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The sum of the loss by the head's name, and how many were right where that can be said; where no gradient is
        wanted also the logits, as `answers`.
        """
        logits = self(hidden, batch)
        found = dict(zip((self.kind, f"{self.kind}_correct"), self._loss(logits, batch), strict=False))
        return found if torch.is_grad_enabled() else {**found, "answers": logits}

    def _loss(self, logits: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        if self.kind == "value":
            if batch.value is None:
                return (logits.sum() * 0,)
            return (torch.where(batch.value.isfinite(), logits[:, 0] - batch.value, 0).square().sum(),)
        if self.kind == "span":
            return self._span(logits, batch)
        labels = batch.labels if self.kind == "tokens" else batch.related
        if labels is None:  # rows that only fill up
            labels = torch.full_like(batch.tokens[:, 0], -1)
        if self.kind == "choice":
            logits, right = logits.view(-1, self.candidates), labels.view(-1, self.candidates) == 1
            labels = torch.where(right.any(1), right.long().argmax(1), -1)
        logits, labels = logits.flatten(0, -2), labels.flatten()
        return loss.cross_entropy(logits, labels), ((logits.argmax(-1) == labels) & (labels >= 0)).sum()

    def _span(self, logits: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        """A label of 1 says that the answer begins there, 2 that it ends; both at the first token if there is none."""
        assert batch.labels is not None
        logits, labels = self.whole(logits), self.everywhere(batch.labels).clamp(min=0)
        if batch.document is not None:
            logits = logits.masked_fill((self.everywhere(batch.document) < 0)[..., None], -torch.inf)
        total, right = logits.new_zeros(()), torch.ones_like(labels[:, 0], dtype=torch.bool)
        for end in range(2):
            here = labels >> end & 1
            place = torch.where(here.any(1), here.argmax(1), -1)
            total = total + loss.cross_entropy(logits[..., end], place) / 2
            right &= logits[..., end].argmax(1) == place
        return total / self.ways, right.sum() / self.ways
