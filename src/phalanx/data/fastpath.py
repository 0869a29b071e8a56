"""Byte-level BPE through tiktoken, far faster than the tokenizers library, wherever the ids are the same.

The two merge by different rules. One follows the list of merges; the other joins any two neighbours whose bytes make a
known token, lowest rank first. They agree on every text when ids grow along the list of merges and each token,
encoded alone, stays one token: if neighbours x and y could ever join to a token t by another way than t's own merge,
then t encoded alone would have come out as x and y. `fast_path` checks both before it trusts the fast way. A list may
have several merges of one token, as lists do that were made from ids: of those that stand together no more than one
comes about, by the same reason. Where whole words are looked up before they are merged (`ignore_merges`), a token that
no merges make is one only as a whole word, in both: but for one that two tokens make which are older than it.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any

import numpy as np
import tiktoken
from tokenizers import AddedToken, pre_tokenizers
from tokenizers import Tokenizer as Backend

from phalanx.data.pretokens import Pretokens, numbers, pretokens

BETWEEN = "\x1fbetween two "
MARK, CUT = f"\x00{BETWEEN}texts\x1f\x00", f"\x00{BETWEEN}blanks\x1f\x00"  # special tokens: no word crosses them
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
UTF_8 = (0xE0, 6, 0x1F), (0xF0, 12, 0x0F), (0xF5, 18, 0x07)  # first bytes below, bits that follow, bits of their own
ODD = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")  # options of a BPE model

Array = np.ndarray[Any, np.dtype[Any]]
Normalize = Callable[[str], str]


class FastPath:
    """A tokenizer by the bytes of its tokens and their ids, and by how it cuts a text.

    `added` are the tokens with their ids that stand for themselves in any text; `normalize` is done to what lies
    between them; `unknown` is a class of characters of which texts are not encoded here.
    """

    def __init__(
        self, ranks: Mapping[bytes, int], words: Pretokens, added: Mapping[str, int],
        normalize: Normalize | None = None, unknown: str = "",
    ) -> None:  # fmt: skip
        self._mark = max(*ranks.values(), *added.values(), 0) + 1
        specials = {MARK: self._mark, CUT: self._mark + 1, **added}
        self._encoding = tiktoken.Encoding(
            "byte-level", pat_str=words.pieces, mergeable_ranks={**ranks}, special_tokens=specials
        )
        self._allowed = {*specials}

        blank, ends = words.blank, "|".join(map(re.escape, (MARK, *added)))
        classes = [unknown] if unknown else []
        if words.digits:
            number, newer = numbers()
            classes.append(newer)
            before = rf"(?={blank}(?!{blank}|{ends}|{number}|\Z)|{number})"
        else:
            before = rf"(?={blank}(?!{blank}|{ends}|[\r\n]|\Z))"
        self._before_last = re.compile(f"{blank}{blank}{before}")
        self._unknown = re.compile("|".join(classes)) if classes else None
        self._added = re.compile("({})".format("|".join(map(re.escape, added)))) if added else None
        self._normalize = normalize

    def encode(self, texts: Sequence[str]) -> tuple[Array, Array] | None:
        """Return the ids of all texts back to back, uint32, and how many each has; None if a text looks like a mark, or
        has characters of bytes that are no tokens, or of which it is not known whether they are numbers.

        Thousands of short texts cost one call of tiktoken, in which the interpreter is free for other threads.
        """
        joined = MARK.join(texts if self._normalize is None else map(self._normalized, texts))
        if joined.count(BETWEEN) != len(texts) - 1:
            return None
        if self._unknown and any(map(self._unknown.match, set().union(*texts))):  # few characters make up a text
            return None
        marked = self._before_last.sub(rf"\g<0>{CUT}", joined)
        ids = self._encoding.encode_to_numpy(marked, allowed_special=self._allowed, disallowed_special=())
        ids = ids[ids != self._mark + 1]
        marks = np.flatnonzero(ids == self._mark)
        bounds = np.concatenate([[-1], marks, [len(ids)]])
        return np.delete(ids, marks), np.diff(bounds) - 1

    def _normalized(self, text: str) -> str:
        assert self._normalize is not None
        if self._added is None or unicodedata.is_normalized("NFC", text):
            return self._normalize(text)
        parts = self._added.split(text)
        parts[::2] = map(self._normalize, parts[::2])
        return "".join(parts)


def is_gpt2_like(backend: Backend) -> bool:
    """Return whether texts are cut into words exactly as GPT-2's are."""
    words = backend.pre_tokenizer
    byte_level = isinstance(words, pre_tokenizers.ByteLevel) and words.use_regex and not words.add_prefix_space
    return byte_level and backend.normalizer is None and not _ordinary(backend)


def fast_path(backend: Backend, facts: dict[str, Any]) -> FastPath | None:
    """Return the tokenizer as tiktoken's, or None where the same ids cannot be promised; `facts` as in its JSON."""
    model, words = facts["model"], pretokens(facts["pre_tokenizer"])
    added, normal = _ordinary(backend), facts["normalizer"]
    nfc = normal == {"type": "NFC"}
    if words is None or not (nfc or normal in (None, {"type": "Sequence", "normalizers": []})):
        return None
    if not _stand_alone(added, backend.get_added_tokens_decoder().values(), nfc) or not _is_trusted(backend, model):
        return None

    missing = [byte for letter, byte in byte_letters().items() if letter not in model["vocab"]]
    if any(0x80 <= byte < 0xC0 for byte in missing):
        return None
    ids = {token.content: number for number, token in added.items()}
    return FastPath(ranks(model), words, ids, _nfc(backend) if nfc else None, _beginning(missing))


def ranks(model: dict[str, Any]) -> dict[bytes, int]:
    """Return the ids of a byte-level BPE's tokens by their bytes, as tiktoken wants them, of a tokenizer.json's
    `model`.
    """
    table = str.maketrans(byte_letters())
    return {token.translate(table).encode("latin-1"): model["vocab"][token] for token in _tokens(model)}


def byte_letters() -> dict[str, int]:
    """Return the printable letter that stands for each byte in a byte-level vocabulary, and the byte."""
    others = [byte for byte in range(256) if byte not in PRINTABLE]
    return {chr(byte): byte for byte in PRINTABLE} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _beginning(first: Iterable[int]) -> str:
    """Return a class of the characters whose UTF-8 begins with one of these bytes, none of which is within characters;
    "" where there is none.
    """
    ranges = []
    for byte in first:
        if byte < 0x80:
            ranges.append((byte, byte))
        elif 0xC2 <= byte < 0xF5:
            size, bits = next((size, bits) for bound, size, bits in UTF_8 if byte < bound)
            ranges.append(((byte & bits) << size, min(((byte & bits) + 1 << size) - 1, 0x10FFFF)))
    return "[{}]".format("".join(f"\\U{a:08x}-\\U{b:08x}" for a, b in ranges)) if ranges else ""


def _tokens(model: dict[str, Any]) -> list[str]:
    """Return the tokens of which texts are made: bytes and what merges make, or all where whole words are looked up."""
    letters = byte_letters()
    if model.get("ignore_merges"):
        return [token for token in model["vocab"] if letters.keys() >= {*token}]
    known = (letter for letter in letters if letter in model["vocab"])
    return [*known, *dict.fromkeys("".join(pair) for pair in _pairs(model))]


def _pairs(model: dict[str, Any]) -> list[Sequence[str]]:
    """Return the merges, which older files write as two tokens with a blank between."""
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]


def _is_trusted(backend: Backend, model: dict[str, Any]) -> bool:
    """Return whether tiktoken merges as this BPE does."""
    if model["type"] != "BPE" or any(model.get(key) for key in ODD):
        return False
    vocab, joined = model["vocab"], ["".join(pair) for pair in _pairs(model)]
    if any(vocab[a] > vocab[b] for a, b in pairwise(joined)):
        return False

    whole, bpe = bool(model.get("ignore_merges")), backend.model
    if whole:
        bpe = deepcopy(bpe)  # it may be in use
        bpe.ignore_merges = False
    for token in _tokens(model):
        parts = bpe.tokenize(token)
        if len(parts) != 1 and not (whole and (len(parts) > 2 or max(part.id for part in parts) > vocab[token])):
            return False
    return True


def _ordinary(backend: Backend) -> dict[int, AddedToken]:
    """Return the added tokens that stand for themselves in any text: those that are not special."""
    return {i: token for i, token in backend.get_added_tokens_decoder().items() if not token.special}


def _stand_alone(added: Mapping[int, AddedToken], every: Iterable[AddedToken], normalized: bool) -> bool:
    """Return whether such tokens are found by their text alone, whichever is looked for first."""
    if any(token.single_word or token.lstrip or token.rstrip for token in added.values()):
        return False
    if normalized and any(token.normalized for token in added.values()):
        return False
    names = {token.content for token in added.values()}
    others = {token.content for token in every}
    return not any(
        name in other or any(other.endswith(name[:n]) for n in range(1, len(name)))
        for name in names
        for other in others - {name}
    )


def _nfc(backend: Backend) -> Normalize:
    """Return the library's NFC, asked only where Python's tables, which are newer, say that there is something to do.

    What is normal by the newer tables is so by the older: numbers of marks and compositions never change, so the older
    know fewer of both.
    """
    normalizer = backend.normalizer

    def normalize(text: str) -> str:
        return text if unicodedata.is_normalized("NFC", text) else str(normalizer.normalize_str(text))

    return normalize
