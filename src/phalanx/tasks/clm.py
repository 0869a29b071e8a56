"""Causal language modelling: predict the next token (GPT)."""

from torch import Tensor

from phalanx.config import Config
from phalanx.data.gpt import GPTSource
from phalanx.data.source import Documents, Source
from phalanx.data.tokenize import Tokenizer
from phalanx.nn.batch import Batch
from phalanx.tasks import sources


class CausalLM:
    """Sequences of data.sequence tokens out of the joined documents; every position is predicted."""

    losses = ("lm",)

    def __init__(self, config: Config, tokenizer: Tokenizer, train: bool = True) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.train = sources.training(config.data, config.train.seed, self.source) if train else None
        self.valid = sources.held_out(config.data, self.source)

    def source(self, documents: Documents) -> Source:
        """The samples of a range of documents."""
        data = self.config.data
        return GPTSource(documents, data.sequence, self.tokenizer.eod, data.stop_at_documents)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Predicted tokens."""
        assert batch.labels is not None
        return {"lm": (batch.labels >= 0).sum()}
