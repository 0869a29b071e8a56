"""BERT's tokenizer in bulk: a word between blanks has the same ids wherever it stands, so each is encoded once.

The library takes apart every word of a text anew. Texts repeat their words, so looking them up is several times faster.
"""

import threading
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers

HELD = 1 << 24  # characters of words that are remembered; then it forgets all

Array = np.ndarray[Any, np.dtype[Any]]


def is_bert_like(backend: Backend) -> bool:
    """Return whether no word's ids depend on what stands beyond the blanks around it."""
    ordinary = [token for token in backend.get_added_tokens_decoder().values() if not token.special]
    return (
        isinstance(backend.model, models.WordPiece)
        and isinstance(backend.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and (backend.normalizer is None or isinstance(backend.normalizer, normalizers.BertNormalizer))
        and not ordinary
    )


class Words:
    """The words of a tokenizer that were met, each with its ids as the bytes of uint32."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._lock = threading.Lock()
        self._ids: dict[str, bytes] = {}
        self._held = 0

    def encode(self, texts: Sequence[str]) -> tuple[Array, Array]:
        """Return the ids of all texts back to back, uint32, and how many each text has, int64."""
        split = [text.replace("\n", " ").split(" ") for text in texts]
        words = [*chain.from_iterable(split)]
        with self._lock:
            self._learn(words)
            parts = [*map(self._ids.__getitem__, words)]
        tokens = np.frombuffer(bytearray().join(parts), np.uint32)
        ends = np.cumsum([0, *map(len, parts)]) // tokens.itemsize
        return tokens, np.diff(ends[np.cumsum([0, *map(len, split)])])

    def _learn(self, words: Sequence[str]) -> None:
        """Encode those of the words that are new, in one call of the library."""
        distinct = set(words)
        new = list(distinct - self._ids.keys())
        if self._held + sum(map(len, new)) > HELD:
            self._ids, self._held = {}, 0
            new = list(distinct)
        if new:
            encodings = self._backend.encode_batch_fast(new, add_special_tokens=False)
            ids = (np.array(encoding.ids, np.uint32).tobytes() for encoding in encodings)
            self._ids |= zip(new, ids, strict=True)
            self._held += sum(map(len, new))
