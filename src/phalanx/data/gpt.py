"""GPT samples: consecutive pieces of the documents' joined tokens.

Documents lie back to back in the file, each with its end-of-text token, so a sample is a slice. Neighbours share one
token: the last label of one is the first token of the next, and an epoch predicts every token once.
"""

import numpy as np

from phalanx.data.source import Documents, Sample
from phalanx.errors import InputError


class GPTSource:
    """Sequences of `sequence` tokens. With `stop_at_documents`, attention ends at `eod` tokens."""

    def __init__(self, documents: Documents, sequence: int, eod: int | None, stop_at_documents: bool) -> None:
        self.first, last = documents.tokens
        self.tokens, self.sequence, self.eod = documents.dataset.tokens, sequence, eod
        self.stop_at_documents = stop_at_documents
        self.samples = (last - self.first - 1) // sequence
        if self.samples < 1:
            raise InputError(
                f"{documents.name}: documents {documents.first} to {documents.last} hold {last - self.first} tokens, "
                f"fewer than one sample of data.sequence={sequence} + 1; lower data.sequence or give more text"
            )
        if stop_at_documents and eod is None:
            raise InputError("data.stop_at_documents=true needs a tokenizer with an end-of-text token")

    def __len__(self) -> int:
        return self.samples

    def sample(self, i: int, draw: int) -> Sample:
        """Tokens i × sequence onwards; nothing about them is random."""
        start = self.first + i * self.sequence
        piece = self.tokens[start : start + self.sequence + 1].astype(np.int64)
        tokens, labels = piece[:-1], piece[1:]
        document = None
        if self.stop_at_documents:
            ended = np.cumsum(tokens == self.eod, dtype=np.int32)
            document = np.concatenate([np.zeros(1, np.int32), ended[:-1]])  # an end belongs to the document it ends
        return Sample(tokens, labels, None, document, -1)
