"""Masks of BERT: which tokens of a sample are to be predicted, and what stands in their place.

Of the chosen tokens 80 % become [MASK], 10 % a random ordinary token, 10 % stay (Devlin et al., arXiv 1810.04805).
"""

import numpy as np

from phalanx.data import hash
from phalanx.data.source import Array
from phalanx.data.tokenize import Tokenizer


class Masker:
    """Chooses and replaces `fraction` of the tokens of a sample, one at least; with `whole_word`, all of a word."""

    def __init__(self, tokenizer: Tokenizer, fraction: float, whole_word: bool) -> None:
        assert tokenizer.mask is not None
        special = [tokenizer.pad, tokenizer.unk, tokenizer.cls, tokenizer.sep, tokenizer.mask]
        self.ordinary = np.setdiff1d(np.arange(tokenizer.vocab), [i for i in special if i is not None])
        self.mask, self.fraction = tokenizer.mask, fraction
        self.starts_word = tokenizer.starts_word if whole_word else None

    def __call__(self, tokens: Array, places: Array, key: int) -> tuple[Array, Array]:
        """Return `tokens` with some of those at `places` (ascending, never special ones) replaced, and the labels."""
        count = max(1, round(len(places) * self.fraction))
        rank, kind, word = hash.uniform(key, 3 * len(places)).reshape(3, -1)
        chosen = _smallest(rank, count) if self.starts_word is None else self._words(tokens, places, rank, count)
        places, kind, word = places[chosen], kind[chosen], word[chosen]

        hidden = tokens[places]
        labels = np.full_like(tokens, -1)
        labels[places] = hidden

        drawn = self.ordinary[(word * len(self.ordinary)).astype(np.int64)]
        masked = tokens.copy()
        masked[places] = np.where(kind < 0.8, self.mask, np.where(kind < 0.9, drawn, hidden))
        return masked, labels

    def _words(self, tokens: Array, places: Array, rank: Array, count: int) -> Array:
        """Choose whole words in the order of their rank, as many as fit in `count` pieces, one at least: bool [places].

        The first piece of a segment begins a word, whatever it was cut from.
        """
        assert self.starts_word is not None
        starts = self.starts_word[tokens[places]] | (np.diff(places, prepend=-1) > 1)
        firsts = np.flatnonzero(starts)
        sizes = np.diff(firsts, append=len(places)).tolist()
        order = np.argsort(rank[firsts]).tolist()

        picked = np.zeros(len(firsts), bool)
        room = count
        for number in order:
            if sizes[number] <= room:
                picked[number] = True
                room -= sizes[number]
            if not room:
                break

        if room == count:
            picked[order[0]] = True
        words: Array = picked[np.cumsum(starts) - 1]
        return words


def _smallest(rank: Array, count: int) -> Array:
    """Return where the `count` smallest of `rank` are: bool [rank]."""
    smallest: Array = rank <= np.partition(rank, count - 1)[count - 1]
    return smallest
