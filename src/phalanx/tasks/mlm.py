"""Masked language modelling with a question about the pair of segments (BERT)."""

from torch import Tensor

from phalanx.config import Config
from phalanx.data.bert import BertSource
from phalanx.data.source import Documents, Source
from phalanx.data.tokenize import Tokenizer
from phalanx.nn.batch import Batch
from phalanx.tasks import sources


class MaskedLM:
    """Masked tokens, and next sentence or sentence order unless data.pairs is none."""

    def __init__(self, config: Config, tokenizer: Tokenizer, train: bool = True) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.losses = ("mlm",) if config.data.pairs == "none" else ("mlm", "nsp")
        self.train = sources.training(config.data, config.train.seed, self.source) if train else None
        self.valid = sources.held_out(config.data, self.source)

    def source(self, documents: Documents) -> Source:
        """The samples of a range of documents."""
        data = self.config.data
        return BertSource(documents, self.tokenizer, data, self.config.train.seed)

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Masked tokens, and sequences with a question."""
        assert batch.labels is not None
        counts = {"mlm": (batch.labels >= 0).sum()}
        if batch.related is not None:
            counts["nsp"] = (batch.related >= 0).sum()
        return counts
