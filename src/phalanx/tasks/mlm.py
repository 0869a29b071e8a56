"""Masked language modelling, with a question about the pair of segments (BERT) or without (RoBERTa)."""

from torch import Tensor

from phalanx.data.bert import BertSource
from phalanx.data.source import Documents, Source
from phalanx.errors import InputError
from phalanx.models.family import sketch_of
from phalanx.nn.batch import Batch
from phalanx.tasks.sources import Splits


class MaskedLM(Splits):
    """Masked tokens, and next sentence or sentence order unless data.pairs is none."""

    @property
    def losses(self) -> tuple[str, ...]:
        """The losses that count: mlm, and nsp where sequences have a question."""
        return ("mlm",) if self.config.data.pairs == "none" else ("mlm", "nsp")

    def source(self, documents: Documents) -> Source:
        """Return the samples of a range of documents. InputError for a model whose positions begin behind the row of
        another token of padding than the tokenizer's, as other programs count them.
        """
        embeddings, pad = sketch_of(self.config.model).embeddings, self.tokenizer.pad
        first = embeddings.offset if embeddings else 0
        if first and pad is not None and first != pad + 1:
            raise InputError(
                f"model.first_position={first} is for a tokenizer whose padding is token {first - 1}, and that of "
                f"{documents.name} is token {pad}; use model.first_position={pad + 1}"
            )
        return BertSource(documents, self.tokenizer, self.config.data, self.config.train.seed)

    def loss_counts(self, batch: Batch) -> dict[str, Tensor]:
        """Return how many tokens are masked, and how many sequences have a question."""
        assert batch.labels is not None
        counts = {"mlm": (batch.labels >= 0).sum()}
        if batch.related is not None:
            counts["nsp"] = (batch.related >= 0).sum()
        return counts
