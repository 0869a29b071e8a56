"""Masked language modelling with a question about the pair of segments (BERT)."""

from torch import Tensor

from phalanx.data.bert import BertSource
from phalanx.data.source import Documents, Source
from phalanx.nn.batch import Batch
from phalanx.tasks.sources import Splits


class MaskedLM(Splits):
    """Masked tokens, and next sentence or sentence order unless data.pairs is none."""

    @property
    def losses(self) -> tuple[str, ...]:
        """The losses that count: mlm, and nsp where sequences have a question."""
        return ("mlm",) if self.config.data.pairs == "none" else ("mlm", "nsp")

    def source(self, documents: Documents) -> Source:
        """Return the samples of a range of documents."""
        return BertSource(documents, self.tokenizer, self.config.data, self.config.train.seed)

    def loss_counts(self, batch: Batch) -> dict[str, Tensor]:
        """Return how many tokens are masked, and how many sequences have a question."""
        assert batch.labels is not None
        counts = {"mlm": (batch.labels >= 0).sum()}
        if batch.related is not None:
            counts["nsp"] = (batch.related >= 0).sum()
        return counts
