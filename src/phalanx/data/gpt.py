"""GPT samples: consecutive pieces of the documents' joined tokens.

Documents lie back to back in the file, each with its end-of-text token, so a sample is a slice. Neighbours share one
token: the last label of one is the first token of the next, and an epoch predicts every token once. Each epoch after
the first cuts the same tokens at other places, so that many epochs of a small set show more than the same windows.
"""

import numpy as np

from phalanx import mixing
from phalanx.data.source import Array, Documents, Sample
from phalanx.errors import InputError


class GPTSource:
    """Sequences of `sequence` tokens below `vocab`. With `stop_at_documents`, attention ends at `eod` tokens."""

    def __init__(
        self, documents: Documents, sequence: int, vocab: int, eod: int | None, stop_at_documents: bool
    ) -> None:
        first, last = documents.tokens
        self.first, self.size = first, last - first
        self.set, self.sequence, self.vocab, self.eod = documents.dataset, sequence, vocab, eod
        self.stop_at_documents = stop_at_documents

        self.samples = (last - first - 1) // sequence
        if self.samples < 1:
            whole = documents.last - documents.first == len(documents.dataset.documents) - 1
            raise InputError(
                f"{documents.name}: documents {documents.first} to {documents.last - 1} hold {last - first} tokens, "
                f"fewer than one sample of data.sequence={sequence} + 1; lower data.sequence, "
                f"{'' if whole else 'give this part a larger share of data.split, '}or give more text"
            )

        if stop_at_documents and (eod is None or self.set.tokens[last - 1] != eod):
            raise InputError(
                f"data.stop_at_documents=true: the documents of {documents.name} do not end in an end-of-text token; "
                "prepare it with --append-eod and a tokenizer that has one, or set data.stop_at_documents=false"
            )

    def __len__(self) -> int:
        return self.samples

    def sample(self, i: int, draw: int) -> Sample:
        """Return the tokens from i × sequence on; epochs after the first begin at tokens of their own."""
        epoch = draw // self.samples
        piece = self._piece(i * self.sequence + (mixing.key(epoch) % self.sequence if epoch else 0))
        tokens, labels = piece[:-1], piece[1:]
        document = None
        if self.stop_at_documents:
            ended = np.cumsum(tokens == self.eod, dtype=np.int32)
            document = np.concatenate([np.zeros(1, np.int32), ended[:-1]])  # an end belongs to the document it ends
        return Sample(tokens, labels, None, document, -1)

    def _piece(self, start: int) -> Array:
        """Return `sequence` + 1 tokens from `start` on; after the last comes the first."""
        missing = start + self.sequence + 1 - self.size
        piece = self._tokens(start, self.size + min(missing, 0))
        return piece if missing <= 0 else np.concatenate([piece, self._tokens(0, missing)])

    def _tokens(self, first: int, last: int) -> Array:
        return self.set.read(self.first + first, self.first + last, self.vocab)
