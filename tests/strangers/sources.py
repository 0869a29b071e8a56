"""Data as another package would bring them: `data.train=tests.strangers.sources:Sums`."""

import numpy as np

from phalanx.config import Config
from phalanx.data.source import Sample
from phalanx.data.tokenize import Tokenizer


class Sums:
    """Sums of two numbers below 50, as text, of which the answer is to be predicted."""

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        self.length, self.tokenizer = config.data.sequence, tokenizer

    def __len__(self) -> int:
        return 50 * 50

    def fingerprint(self) -> str:
        """Return what tells these samples from others: of a file, a checksum of it."""
        return "sums of numbers below 50"

    def sample(self, i: int, draw: int) -> Sample:
        """Return sample `i`, the same for ever; `draw`, another number each time, is for what is random about it."""
        a, b = divmod(i, 50)
        question, answer = self.tokenizer.encode(f"{a} and {b} are"), self.tokenizer.encode(f" {a + b}")
        text = [*question, *answer][: self.length + 1]

        tokens, labels = np.zeros(self.length, np.int64), np.full(self.length, -1)
        tokens[: len(text) - 1] = text[:-1]
        labels[len(question) - 1 : len(text) - 1] = text[len(question) :]
        return Sample(tokens, labels, segment=None, document=None, related=-1)


class Changed(Sums):
    """Others than they were."""

    def fingerprint(self) -> str:
        """Return what tells these samples from others."""
        return "sums of numbers below 60"


class Short(Sums):
    """Samples that are too short."""

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        super().__init__(config, tokenizer)
        self.length -= 1


class Strange(Sums):
    """Samples of words that the model has not."""

    def sample(self, i: int, draw: int) -> Sample:
        """Return a sample of a word that is none."""
        return super().sample(i, draw)._replace(tokens=np.full(self.length, 1 << 20))


class Empty(Sums):
    """No samples at all."""

    def __len__(self) -> int:
        return 0
