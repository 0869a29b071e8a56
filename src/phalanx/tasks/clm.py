"""Causal language modelling: predict the next token (GPT)."""

from torch import Tensor

from phalanx.data.gpt import GPTSource
from phalanx.data.source import Documents, Source
from phalanx.nn.batch import Batch
from phalanx.tasks.sources import Splits


class CausalLM(Splits):
    """Sequences of data.sequence tokens out of the joined documents; every position is predicted."""

    losses = ("lm",)

    def source(self, documents: Documents) -> Source:
        """Return the samples of a range of documents."""
        data = self.config.data
        vocab, eod = self.tokenizer.vocab, self.tokenizer.eod
        return GPTSource(documents, data.sequence, vocab, eod, data.stop_at_documents)

    def loss_counts(self, batch: Batch) -> dict[str, Tensor]:
        """Return how many tokens are predicted."""
        assert batch.labels is not None
        return {"lm": (batch.labels >= 0).sum()}
