"""BERT samples: masked sentences of a document, in two segments with a question about them.

No index is stored: sample i is anchored at a token of the split's stream, and the sentence that holds it is found by
binary search. Lengths, pairs and masks are hashes of (seed, draw), so every epoch draws new ones and any process can
make any sample.
"""

from typing import Any, NamedTuple

import numpy as np

from phalanx.config import DataConfig
from phalanx.data import hash
from phalanx.data.source import Array, Documents, Sample
from phalanx.data.tokenize import Tokenizer
from phalanx.errors import InputError

# What a random number of a sample is for.
_OFFSET, _SHORT, _LENGTH, _PIVOT, _QUESTION, _OTHER, _SIDE, _CHOICE, _KIND, _TOKEN = range(10)


class _Span(NamedTuple):
    """Consecutive sentences of one document."""

    start: int  # token
    ends: Array  # token after each sentence


class BertSource:
    """Samples as in Devlin et al., arXiv 1810.04805: 15 % masked, 80/10/10; next-sentence or sentence-order pairs."""

    def __init__(self, documents: Documents, tokenizer: Tokenizer, data: DataConfig, seed: int) -> None:
        self.documents, self.set, self.data, self.seed = documents, documents.dataset, data, seed
        self.tokenizer = tokenizer
        missing = [n for n in ("mask", "cls", "sep", "pad") if getattr(tokenizer, n) is None]
        if missing:
            raise InputError(f"{documents.name}: its tokenizer has no {missing[0].upper()} token; use a WordPiece one")
        if data.pairs != "none" and len(self.set) == len(self.set.documents) - 1:
            raise InputError(
                f"{documents.name} is not split into sentences, which data.pairs={data.pairs} needs; "
                "run phalanx prepare --sentences, or set data.pairs=none"
            )
        self.room = data.sequence - (2 if data.pairs == "none" else 3)  # beside [CLS] and [SEP]
        if self.room < 2:
            raise InputError(f"data.sequence={data.sequence} leaves no room for two segments; use 8 or more")
        self.first, self.last = documents.tokens

    def __len__(self) -> int:
        return max(1, (self.last - self.first) // self.room)

    def sample(self, i: int, draw: int) -> Sample:
        """The sample anchored at token i × room, moved by a random part of the room."""
        key = hash.key(self.seed, draw)
        position = min(self.first + i * self.room + hash.below(self.room, key, _OFFSET), self.last - 1)
        target = self.room
        if hash.below(1 << 32, key, _SHORT) < self.data.short_fraction * 2**32:
            target = 2 + hash.below(self.room - 1, key, _LENGTH)
        if self.data.pairs == "none":
            span = self._span(position, target, 1)
            a, b, related = self._tokens(span.start, min(int(span.ends[-1]), span.start + target)), None, -1
        else:
            a, b, related = self._pair(position, target, key)
        return self._assemble(a, b, related, key)

    def _pair(self, position: int, target: int, key: int) -> tuple[Array, Array, int]:
        """Two segments that fit, and the label of the question about them."""
        span = self._span(position, target, 2)
        stop = min(int(span.ends[-1]), span.start + 2 * self.room)
        inner = span.ends[:-1][span.ends[:-1] < stop]
        if len(inner):
            pivot = int(inner[hash.below(len(inner), key, _PIVOT)])
        else:  # one sentence is all there is: cut it
            pivot = span.start + 1 + hash.below(max(1, stop - span.start - 1), key, _PIVOT)
        a, b = self._tokens(span.start, pivot), self._tokens(pivot, stop)
        related = hash.below(2, key, _QUESTION)
        if not len(b) or (related and self.data.pairs == "nsp"):
            related, b = 1, self._other(span.start, max(1, target - len(a)), key)
        elif related:
            a, b = b, a
        cut_a, cut_b = _excess(len(a), len(b), target)
        return _trim(a, cut_a, hash.key(key, _SIDE, 0)), _trim(b, cut_b, hash.key(key, _SIDE, 1)), related

    def _other(self, position: int, length: int, key: int) -> Array:
        """At least one token of a random other document; of the same one if the split has no other."""
        document = self._document(self._sentence(position))
        for attempt in range(16):
            other = self.first + hash.below(self.last - self.first, key, _OTHER, attempt)
            if self._document(self._sentence(other)) != document:
                break
        span = self._span(other, length, 1)
        return self._tokens(span.start, int(span.ends[-1]))

    def _span(self, position: int, target: int, least: int) -> _Span:
        """Sentences from the one at `position` on, to `target` tokens or the document's end; `least` if it has them.

        A sentence longer than a sample is entered at `position`, so that all of it is seen in time.
        """
        sentence = self._sentence(position)
        document = self._document(sentence)
        first, last = int(self.set.documents[document]), int(self.set.documents[document + 1])
        sentence = max(first, min(sentence, last - least))
        start = self._start(sentence)
        if position - start > self.room:
            start = position
        end = start
        ends: list[int] = []
        while sentence < last and (end - start < target or len(ends) < least):
            end = self._start(sentence) + int(self.set.lengths[sentence])
            ends.append(end)
            sentence += 1
        return _Span(start, np.array(ends))

    def _sentence(self, position: int) -> int:
        """The sentence that holds a token; empty ones hold none."""
        return int(np.searchsorted(self.set.starts, position * self.set.tokens.itemsize, "right")) - 1

    def _document(self, sentence: int) -> int:
        return int(np.searchsorted(self.set.documents, sentence, "right")) - 1

    def _start(self, sentence: int) -> int:
        return int(self.set.starts[sentence]) // self.set.tokens.itemsize

    def _tokens(self, start: int, stop: int) -> Array:
        return self.set.tokens[start:stop].astype(np.int64)

    def _assemble(self, a: Array, b: Array | None, related: int, key: int) -> Sample:
        """[CLS] a [SEP] b [SEP], masked and padded."""
        know, length = self.tokenizer, self.data.sequence
        parts: list[Any] = [[know.cls], a, [know.sep]] + ([] if b is None else [b, [know.sep]])
        used = sum(map(len, parts))
        tokens = np.full(length, know.pad, np.int64)
        tokens[:used] = np.concatenate(parts)
        segment = np.zeros(length, np.int64)
        segment[len(a) + 2 : used] = 1
        words = np.flatnonzero(np.arange(length) < used - 1)
        words = words[(words > 0) & (words != len(a) + 1)]  # all but [CLS], [SEP] and padding
        masked, labels = self._mask(tokens, words, key)
        document = None
        if used < length:
            document = np.zeros(length, np.int32)
            document[used:] = -1
        return Sample(masked, labels, segment, document, related)

    def _mask(self, tokens: Array, candidates: Array, key: int) -> tuple[Array, Array]:
        """Tokens with some of the `candidates` masked, and their labels."""
        count = max(1, round(len(candidates) * self.data.mask_fraction))
        chosen = self._choose(tokens, candidates, count, key)
        labels = np.full(len(tokens), -1, np.int64)
        labels[chosen] = tokens[chosen]
        kind = hash.uniform(hash.key(key, _KIND), len(chosen))
        random = hash.uniform(hash.key(key, _TOKEN), len(chosen)) * self.tokenizer.vocab
        masked = tokens.copy()
        replaced = np.where(kind < 0.9, random.astype(np.int64), tokens[chosen])
        masked[chosen] = np.where(kind < 0.8, np.int64(self.tokenizer.mask or 0), replaced)
        return masked, labels

    def _choose(self, tokens: Array, candidates: Array, count: int, key: int) -> Array:
        """`count` of the candidates at random, or whole words of about as many pieces."""
        if not self.data.whole_word:
            return candidates[np.argsort(hash.uniform(hash.key(key, _CHOICE), len(candidates)))[:count]]
        starts = self.tokenizer.starts_word[tokens[candidates]]
        starts[0] = True
        word = np.cumsum(starts) - 1
        sizes = np.bincount(word)
        order = np.argsort(hash.uniform(hash.key(key, _CHOICE), len(sizes)))
        picked = np.zeros(len(sizes), bool)
        room = count
        for number in order:
            if sizes[number] <= room:
                picked[number], room = True, room - int(sizes[number])
            if not room:
                break
        if not picked.any():
            picked[order[0]] = True
        words: Array = candidates[picked[word]]
        return words


def _excess(a: int, b: int, room: int) -> tuple[int, int]:
    """Tokens to cut from each of two segments so that they fit: the longer loses first, each keeps one."""
    keep_b = max(1, min(b, max(room // 2, room - a)))
    keep_a = max(1, min(a, room - keep_b))
    return a - keep_a, b - keep_b


def _trim(tokens: Array, excess: int, key: int) -> Array:
    """Drop `excess` tokens, each from the front or the back with equal chance."""
    front = int((hash.uniform(key, excess) < 0.5).sum())
    return tokens[front : len(tokens) - (excess - front)]
