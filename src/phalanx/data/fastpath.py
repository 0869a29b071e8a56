"""GPT-2's byte-level BPE through tiktoken, far faster than the tokenizers library, wherever the ids are the same.

The two merge by different rules. One follows the list of merges; the other joins any two neighbours whose bytes make a
known token, lowest rank first. They agree on every text when ids grow along the list of merges and each token,
encoded alone, stays one token: if neighbours x and y could ever join to a token t by another way than t's own merge,
then t encoded alone would have come out as x and y. `fast_path` checks both before it trusts the fast way.

GPT-2's pattern looks ahead, `\\s+(?!\\S)`, which tiktoken's fastest regular expressions cannot do. What it decides is
that of three or more blanks before a word the last stands apart; so a mark is put there and the pattern goes without.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import tiktoken
from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers

PIECES = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+$|\s"
BETWEEN = "\x1fbetween two "
MARK, CUT = f"\x00{BETWEEN}texts\x1f\x00", f"\x00{BETWEEN}blanks\x1f\x00"  # the special tokens: no word crosses them
BLANK = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"  # the pattern's \s; Python's has more
BEFORE_LAST = re.compile(rf"{BLANK}{BLANK}(?={BLANK}(?!{BLANK}|{MARK}|\Z))")
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]

Array = np.ndarray[Any, np.dtype[Any]]


class FastPath:
    """A tokenizer by the bytes of its tokens and their ids."""

    def __init__(self, ranks: dict[bytes, int]) -> None:
        self._mark = max(ranks.values()) + 1
        specials = {MARK: self._mark, CUT: self._mark + 1}
        self._encoding = tiktoken.Encoding("byte-level", pat_str=PIECES, mergeable_ranks=ranks, special_tokens=specials)

    def encode(self, texts: Sequence[str]) -> tuple[Array, Array] | None:
        """Return the ids of all texts back to back, uint32, and how many each has; None if a text looks like a mark.

        Thousands of short texts cost one call of tiktoken, in which the interpreter is free for other threads.
        """
        joined = MARK.join(texts)
        if joined.count(BETWEEN) != len(texts) - 1:
            return None
        marked = BEFORE_LAST.sub(rf"\g<0>{CUT}", joined)
        ids = self._encoding.encode_to_numpy(marked, allowed_special={MARK, CUT}, disallowed_special=())
        ids = ids[ids != self._mark + 1]
        marks = np.flatnonzero(ids == self._mark)
        bounds = np.concatenate([[-1], marks, [len(ids)]])
        return np.delete(ids, marks), np.diff(bounds) - 1


def is_gpt2_like(backend: Backend) -> bool:
    """Return whether texts are cut into words exactly as GPT-2's are."""
    words = backend.pre_tokenizer
    byte_level = isinstance(words, pre_tokenizers.ByteLevel) and words.use_regex and not words.add_prefix_space
    ordinary = [token for token in backend.get_added_tokens_decoder().values() if not token.special]
    return byte_level and backend.normalizer is None and not ordinary


def fast_path(backend: Backend, model: dict[str, Any]) -> FastPath | None:
    """Return the tokenizer as tiktoken's, or None where the same ids cannot be promised; `model` as in its JSON."""
    odd = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")
    if model["type"] != "BPE" or any(model.get(key) for key in odd) or not is_gpt2_like(backend):
        return None
    joined = ["".join(pair) for pair in model["merges"]]
    vocab = model["vocab"]
    if any(vocab[a] >= vocab[b] for a, b in pairwise(joined)) or not byte_letters().keys() <= vocab.keys():
        return None
    if any(len(backend.model.tokenize(token)) != 1 for token in joined):
        return None
    return FastPath(ranks(model))


def ranks(model: dict[str, Any]) -> dict[bytes, int]:
    """Return the ids of a byte-level BPE's tokens by their bytes, as tiktoken wants them, of a tokenizer.json's
    `model`.
    """
    letters = byte_letters()
    table = str.maketrans(letters)
    tokens = [*letters, *("".join(pair) for pair in model["merges"])]
    return {token.translate(table).encode("latin-1"): model["vocab"][token] for token in tokens}


def byte_letters() -> dict[str, int]:
    """Return the printable letter that stands for each byte in a byte-level vocabulary, and the byte."""
    others = [byte for byte in range(256) if byte not in PRINTABLE]
    return {chr(byte): byte for byte in PRINTABLE} | {chr(256 + i): byte for i, byte in enumerate(others)}
