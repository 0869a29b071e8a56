"""Samples of BERT and its kind: sentences of a document in two segments with a question about them, or in one, and
masks.

No index is stored: sample i is anchored at a token of the split's stream, and the sentence that holds it is found by
binary search. Lengths, pairs and masks are hashes of (seed, draw, i), so every epoch draws new ones and any process
can make any sample.
"""

from bisect import bisect_left, bisect_right
from typing import NamedTuple

import numpy as np

from phalanx import mixing
from phalanx.config import DataConfig
from phalanx.data import hash
from phalanx.data.labelled import Assembler
from phalanx.data.manifest import Manifest, manifest_path
from phalanx.data.mask import Masker
from phalanx.data.source import Array, Documents, Sample
from phalanx.data.tokenize import Tokenizer
from phalanx.errors import InputError

_DRAWS, _FRONT_A, _FRONT_B, _MASK = range(4)  # what a key of a sample is for


class _Draws(NamedTuple):
    """The random numbers of a sample's shape, each in [0, 1)."""

    offset: float
    short: float
    length: float
    pivot: float
    question: float
    other: float


class _Chunk(NamedTuple):
    """Consecutive sentences of one document; all numbers are tokens of the set."""

    start: int
    ends: Array  # after each sentence
    document: tuple[int, int]  # first and one past the last token of the document


class BertSource:
    """Samples as in Devlin et al., arXiv 1810.04805: true next-sentence or sentence-order pairs, some of them short."""

    def __init__(self, documents: Documents, tokenizer: Tokenizer, data: DataConfig, seed: int) -> None:
        special = {name: getattr(tokenizer, name.lower()) for name in ("CLS", "SEP", "PAD", "MASK")}
        missing = [name for name, i in special.items() if i is None]
        if missing:
            raise InputError(
                f"{documents.name}: its tokenizer has no [{missing[0]}] token; use a WordPiece one, such as "
                "phalanx tokenizer train learns with --kind wordpiece, or one of --kind roberta"
            )

        if data.pairs != "none" and not _has_sentences(documents):
            raise InputError(
                f"{documents.name} is not split into sentences, which data.pairs={data.pairs} needs; "
                "run phalanx prepare --sentences, or set data.pairs=none"
            )

        self.assemble = Assembler(tokenizer, data.sequence)
        self.room = self.assemble.room if data.pairs == "none" else self.assemble.pair_room
        if self.room < 2:
            raise InputError(f"data.sequence={data.sequence} leaves no room for two segments; use 8 or more")

        self.set, self.data, self.seed, self.vocab = documents.dataset, data, seed, tokenizer.vocab
        self.masker = Masker(tokenizer, data.mask_fraction, data.whole_word)
        self.first, self.last = documents.tokens

    def __len__(self) -> int:
        return -(-(self.last - self.first) // self.room)

    def sample(self, i: int, draw: int) -> Sample:
        """Return the sample anchored at token i × room, moved by a random part of the room."""
        key = mixing.key(self.seed, draw, i)
        draws = _Draws(*(word / 2.0**32 for word in hash.words(mixing.key(key, _DRAWS), len(_Draws._fields))))
        position = min(self.first + int((i + draws.offset) * self.room), self.last - 1)
        short = draws.short < self.data.short_fraction
        target = 2 + int(draws.length * (self.room - 1)) if short else self.room
        if self.data.pairs != "none":
            return self._assemble(*self._pair(position, target, draws, key), key)
        chunk = self._chunk(position, target, 1)
        return self._assemble(self._tokens(chunk.start, min(int(chunk.ends[-1]), chunk.start + target)), None, -1, key)

    def _pair(self, position: int, target: int, draws: _Draws, key: int) -> tuple[Array, Array, int]:
        """Return two segments that fit, and the label of the question about them."""
        chunk = self._chunk(position, target, 2)
        stop = self._stop(chunk)
        inner = chunk.ends[chunk.ends < stop]
        if len(inner):
            pivot = int(inner[int(draws.pivot * len(inner))])
        else:  # one sentence is all there is: cut it
            pivot = chunk.start + 1 + int(draws.pivot * (stop - chunk.start - 1))

        a, b = self._tokens(chunk.start, pivot), self._tokens(pivot, stop)
        related = int(draws.question < 0.5)
        if pivot == stop or (related and self.data.pairs == "nsp"):  # a document of one token has nothing to follow
            related, b = 1, self._other(chunk.document, max(1, target - len(a)), draws.other)
        elif related:
            a, b = b, a

        keep_a, keep_b = _shares(len(a), len(b), target)
        return _trim(a, keep_a, mixing.key(key, _FRONT_A)), _trim(b, keep_b, mixing.key(key, _FRONT_B)), related

    def _other(self, document: tuple[int, int], length: int, draw: float) -> Array:
        """Return the sentences from a random token outside the `document` on; inside it if the split holds no other."""
        first, last = document
        outside = self.last - self.first - (last - first)
        position = self.first + int(draw * (outside or last - first))
        if outside and position >= first:
            position += last - first
        chunk = self._chunk(position, length, 1)
        return self._tokens(chunk.start, self._stop(chunk))

    def _chunk(self, position: int, target: int, least: int) -> _Chunk:
        """Return the sentences from the one at `position` on, to `target` tokens or the document's end; `least` of them
        if it has so many.

        A sentence too long for a sample is entered near `position`, so that all of it is seen in time.
        """
        starts, lengths, size = self.set.starts, self.set.lengths, self.set.tokens.itemsize
        # numpy's search would first copy the whole index: after the header's 34 bytes its numbers are not aligned
        sentence = bisect_right(starts, position * size) - 1
        document = bisect_right(self.set.documents, sentence) - 1
        first, last = self.set.documents[document : document + 2].tolist()
        sentence = max(first, min(sentence, last - least))

        start = max(int(starts[sentence]) // size, position - self.room + 1)
        near = slice(sentence, min(last, sentence + target + least))
        ends = starts[near] // size + lengths[near]
        ends = ends[ends > start]
        ends = ends[: max(least, bisect_left(ends, start + target) + 1)]
        return _Chunk(start, ends, (int(starts[first]) // size, int(starts[last - 1]) // size + int(lengths[last - 1])))

    def _stop(self, chunk: _Chunk) -> int:
        """Return where to stop reading a chunk that a long sentence may end."""
        return min(int(chunk.ends[-1]), chunk.start + 2 * self.room)

    def _tokens(self, start: int, stop: int) -> Array:
        return self.set.read(start, stop, self.vocab)

    def _assemble(self, a: Array, b: Array | None, related: int, key: int) -> Sample:
        """Return [CLS] a [SEP] b [SEP], masked and padded to data.sequence tokens; without `b` [CLS] a [SEP]. Other
        tokenizers have others around them.
        """
        length, assemble = self.data.sequence, self.assemble
        joined = assemble.join(a, b)
        used, second = len(joined.tokens), joined.second
        tokens = np.full(length, assemble.pad, np.int64)
        tokens[:used] = joined.tokens

        segment = np.zeros(length, np.int64)
        segment[second:used] = 1
        document = None
        if used < length:
            document = np.zeros(length, np.int32)
            document[used:] = -1

        first = len(assemble.frame.begin)
        places = np.concatenate([np.arange(first, first + len(a)), np.arange(second, used - len(assemble.frame.end))])
        masked, labels = self.masker(tokens, places, mixing.key(key, _MASK))
        return Sample(masked, labels, segment, document, related)


def _has_sentences(documents: Documents) -> bool:
    """Return whether the set was split into sentences; where each document is one sequence, only its manifest tells."""
    if len(documents.dataset) > len(documents.dataset.documents) - 1:
        return True
    prefix = documents.dataset.prefix
    return manifest_path(prefix).exists() and Manifest.read(prefix).sentences


def _shares(a: int, b: int, room: int) -> tuple[int, int]:
    """Return how many tokens of two segments fit in `room`, one at least of each: the longer loses first,
    `b` on a tie.
    """
    keep_b = max(1, min(b, max(room // 2, room - a)))
    return max(1, min(a, room - keep_b)), keep_b


def _trim(tokens: Array, keep: int, key: int) -> Array:
    """Return the tokens without all but `keep`, each cut from the front or the back with equal chance."""
    excess = len(tokens) - keep
    front = int((hash.uniform(key, excess) < 0.5).sum()) if excess else 0
    return tokens[front : front + keep]
