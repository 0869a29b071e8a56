"""The head that a model is fine-tuned with, on top of the transformer."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from phalanx import registry
from phalanx.errors import InputError
from phalanx.nn import activations, slots
from phalanx.nn.batch import Batch
from phalanx.nn.dropout import Dropout
from phalanx.nn.linear import Linear
from phalanx.nn.norm import optional_norm
from phalanx.nn.slots import Slot
from phalanx.spec.model import Head


class Split(NamedTuple):
    """The way in which sequences that a layout splits are put together: `whole` with gradient, `everywhere` without;
    `total` sums [batch, …] over their parts, with gradient. As many `ways` (ranks) compute alike what follows, and each
    counts its part of it.
    """

    whole: Slot = slots.same
    total: Slot = slots.same
    everywhere: Slot = slots.same
    ways: int = 1

    def together(self, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits [batch, seq, width] and labels [batch, seq] of whole sequences: the logits of what fills up
        are -inf, its labels 0.
        """
        assert batch.labels is not None
        logits, labels = self.whole(logits), self.everywhere(batch.labels).clamp(min=0)
        if batch.document is not None:
            logits = logits.masked_fill((self.everywhere(batch.document) < 0)[..., None], -torch.inf)
        return logits, labels


class AnswerHead(nn.Module):
    """The head of a fine-tuned model (arXiv 1810.04805, section 4): one product with the first token, with the mean of
    all tokens or with every token, behind a pooler or not, in some models also behind a norm. What its numbers are to
    be is said by the class that `model.head` names (phalanx/heads).
    """

    def __init__(self, part: Head, site: int) -> None:
        super().__init__()
        leaves: dict[str, Any] = dict(part.chain)
        self.mean = part.mean
        self.name, self.kind = part.loss, registry.HEADS.find(part.loss)(part)
        self.pooler = Linear(leaves["answer.pooler"]) if "answer.pooler" in leaves else None
        self.activation = activations.of(part.activation) if self.pooler else slots.same
        self.norm = optional_norm(leaves.get("answer.norm"))
        self.dropout = Dropout(part.drop, site)
        self.classifier = Linear(leaves["answer.classifier"])
        self.split = Split()

    def forward(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Return float32 logits [batch, width] of hidden [batch, seq, hidden]; [batch, seq, width] of a head that is
        not pooled.
        """
        index = batch.index
        if self.kind.pooled:
            hidden, index = self._means(hidden, batch) if self.mean else hidden[:, :1], index[:, :1]
        if self.pooler is not None:
            hidden = self.activation(self.pooler(hidden))
        hidden = hidden if self.norm is None else self.norm(hidden)
        logits: Tensor = self.classifier(self.dropout(hidden, index, batch.key)).float()
        return logits[:, 0] if self.kind.pooled else logits

    def _means(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Return the mean of each sequence over its tokens, without what fills it up: [batch, 1, hidden]."""
        shown = torch.ones_like(batch.tokens) if batch.document is None else batch.document >= 0
        shown = shown.to(hidden.dtype)[..., None]
        total = self.split.total(torch.cat([hidden * shown, shown], -1).sum(1))  # [batch, hidden + 1]
        return (total[:, :-1] / total[:, -1:].clamp(min=1))[:, None]

    def sums(self, hidden: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of the loss under the head's name, and where answers can be right under NAME_correct how many
        are; without gradients also the logits, as `answers`.
        """
        logits = self(hidden, batch)
        with registry.blamed("model.head", self.name, "loss()"):
            loss = self.kind.loss(logits, batch, self.split)
        sums_alone = isinstance(loss, tuple) and all(isinstance(each, Tensor) and each.ndim == 0 for each in loss)
        if not sums_alone or len(loss) not in (1, 2):
            raise InputError(f"model.head={self.name}: loss() gave no tuple of one or two sums, tensors []")
        sums = dict(zip((self.name, f"{self.name}_correct"), loss, strict=False))
        return sums if torch.is_grad_enabled() else {**sums, "answers": logits}
