"""The class of every token: names, parts of speech (Devlin et al., arXiv 1810.04805, section 5.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from phalanx.data.source import Array
from phalanx.heads.head import TaskHead, classified

if TYPE_CHECKING:
    from torch import Tensor

    from phalanx.nn.answer import Split
    from phalanx.nn.batch import Batch


class TokensHead(TaskHead):
    """A logit of every token for each class."""

    task = "tokens"
    asks = "labels"
    pooled = False
    does = "tag words"
    form = "tags"
    named = True
    hugging_face = "ForTokenClassification"

    def loss(self, logits: Tensor, batch: Batch, split: Split) -> tuple[Tensor, ...]:
        """Return the cross-entropy over the tokens that have a label, and how many have the right class."""
        return classified(logits, self.right(batch))

    def decode(self, logits: Array) -> list[str]:
        """Return the likeliest class of each token."""
        return [self.names[k] for k in logits.argmax(-1)]
