"""Labelled examples as samples: [CLS] text [SEP] pair [SEP] for an encoder, prompt and completion for a GPT.

Each keeps its own length until it is asked for; then it is filled up to that of the run, and a batch is cut to the
longest that it has.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from phalanx import mixing
from phalanx.data.order import Permutation
from phalanx.data.source import Array, Sample
from phalanx.data.tokenize import Tokenizer
from phalanx.errors import InputError


class Encoded(NamedTuple):
    """One example as tokens, int64, without what fills it up."""

    tokens: Array
    second: int  # where the second segment begins; all of them where there is none
    labels: Array | None = None  # of each token, -1 where nothing is asked
    related: int = -1
    value: float = float("nan")


class Examples:
    """Encoded examples as a source. `causal` ones need no mask over what fills them up."""

    def __init__(self, encoded: Sequence[Encoded], length: int, pad: int, causal: bool = False) -> None:
        self.encoded, self.length, self.pad, self.causal = encoded, length, pad, causal

    def __len__(self) -> int:
        return len(self.encoded)

    def sample(self, i: int, draw: int) -> Sample:
        """Return example `i`, filled up to `length` tokens; nothing about it is random."""
        example = self.encoded[i]
        used, places = len(example.tokens), np.arange(self.length)
        tokens = np.full(self.length, self.pad, np.int64)
        tokens[:used] = example.tokens
        labels = np.full(self.length, -1, np.int64)
        if example.labels is not None:
            labels[:used] = example.labels
        if self.causal:
            return Sample(tokens, labels, None, None, -1)
        segment = ((places >= example.second) & (places < used)).astype(np.int64)
        document = np.where(places < used, 0, -1).astype(np.int32)
        return Sample(tokens, labels, segment, document, example.related, example.value)


class ByLength:
    """Epochs of examples in batches of about one length, which need little filling up: each epoch is shuffled, some
    batches' worth of it at a time is sorted, and these batches are shuffled. `group` samples of one example stay
    together; what is left of an epoch when no batch is full waits for the next.
    """

    SORTED = 50  # batches

    def __init__(self, source: Examples, seed: int, batch: int, group: int = 1) -> None:
        self.source, self.seed, self.group = source, seed, group
        groups = len(source) // group
        self.batch = min(batch // group, groups)  # of groups
        self.epoch = groups // self.batch * self.batch
        sizes = [len(example.tokens) for example in source.encoded[: groups * group]]
        self.sizes = np.array(sizes).reshape(groups, group).max(1)
        self._order = lru_cache(2)(self._ordered)

    def __getitem__(self, n: int) -> Sample:
        number, which = divmod(n, self.group)
        epoch, place = divmod(number, self.epoch)
        return self.source.sample(int(self._order(epoch)[place]) * self.group + which, n)

    def _ordered(self, epoch: int) -> Array:
        """Return the epoch's groups in order."""
        shuffle = Permutation(len(self.sizes), mixing.key(self.seed, epoch, 0))
        chosen = np.array([shuffle(i) for i in range(self.epoch)])
        parts = []
        for start in range(0, self.epoch, self.SORTED * self.batch):
            some = chosen[start : start + self.SORTED * self.batch]
            batches = some[np.argsort(self.sizes[some], kind="stable")].reshape(-1, self.batch)
            mixed = Permutation(len(batches), mixing.key(self.seed, epoch, 1 + start))
            parts += [batches[mixed(i)] for i in range(len(batches))]
        return np.concatenate(parts)


class Assembler:
    """Texts to an encoder's sequences of at most `length` tokens, with the special tokens of the tokenizer's template
    (`Tokenizer.frame`) around them.
    """

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        frame = tokenizer.frame
        if frame is None or tokenizer.pad is None:
            raise InputError(
                f"the tokenizer {tokenizer.name} has no [CLS], [SEP] and [PAD]; a BERT needs one that has them"
            )
        self.tokenizer, self.length, self.frame, self.pad = tokenizer, length, frame, tokenizer.pad
        self.room = length - len(frame.begin) - len(frame.end)  # for a text
        self.pair_room = self.room - len(frame.between)  # for two

    def encode(self, texts: Sequence[str]) -> list[Array]:
        """Return the tokens of each text, int64 [tokens]."""
        flat, lengths = self.tokenizer.encode_joined(texts)
        return np.split(flat.astype(np.int64), np.cumsum(lengths)[:-1]) if len(texts) else []

    def encode_words(self, words: Sequence[str]) -> list[Array]:
        """Return the tokens of each of a sentence's words, int64 [tokens], as they are where a blank is before it."""
        blank = " " if self.tokenizer.marks_blanks else ""
        return self.encode([blank + word for word in words])

    def join(self, a: Array, b: Array | None = None) -> Encoded:
        """Return [CLS] a [SEP], or [CLS] a [SEP] b [SEP]. Too long, the longer of the two loses its end first."""
        begin, between, end = (np.array(part, np.int64) for part in self.frame)
        if b is None:
            tokens = np.concatenate([begin, a[: self.room], end])
            return Encoded(tokens, len(tokens))

        room = self.pair_room
        keep_b = max(min(len(b), room // 2), min(len(b), room - len(a)))
        a, b = a[: room - keep_b], b[:keep_b]
        return Encoded(np.concatenate([begin, a, between, b, end]), len(begin) + len(a) + len(between))
