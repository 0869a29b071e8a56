"""GPT-2's byte-level BPE through tiktoken, twice as fast as the tokenizers library, wherever the ids are the same.

The two merge by different rules. One follows the list of merges; the other joins any two neighbours whose bytes make a
known token, lowest rank first. They agree on every text when ids grow along the list of merges and each token,
encoded alone, stays one token: if neighbours x and y could ever join to a token t by another way than t's own merge,
then t encoded alone would have come out as x and y. `fast_path` checks both before it trusts the fast way.
"""

import json
from itertools import pairwise

import tiktoken
from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers

PIECES = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"  # GPT-2's, unambiguous
MARK = "\x00\x1fbetween two texts\x1f\x00"  # the one special token: no word crosses it
PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]


def is_gpt2_like(backend: Backend) -> bool:
    """Whether texts are cut into words exactly as GPT-2's are."""
    words = backend.pre_tokenizer
    byte_level = isinstance(words, pre_tokenizers.ByteLevel) and words.use_regex and not words.add_prefix_space
    ordinary = [token for token in backend.get_added_tokens_decoder().values() if not token.special]
    return byte_level and backend.normalizer is None and not ordinary


def fast_path(backend: Backend) -> tiktoken.Encoding | None:
    """The same tokenizer for tiktoken, or None where the same ids cannot be promised."""
    model = json.loads(backend.to_str())["model"]
    odd = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")
    if model["type"] != "BPE" or any(model.get(key) for key in odd) or not is_gpt2_like(backend):
        return None
    letters = _letters()
    joined = ["".join(pair) for pair in model["merges"]]
    vocab = model["vocab"]
    if any(vocab[a] >= vocab[b] for a, b in pairwise(joined)) or not letters.keys() <= vocab.keys():
        return None
    if any(len(backend.model.tokenize(token)) != 1 for token in joined):
        return None
    ranks = {bytes(letters[letter] for letter in token): vocab[token] for token in [*letters, *joined]}
    return tiktoken.Encoding(
        "byte-level", pat_str=PIECES, mergeable_ranks=ranks, special_tokens={MARK: max(ranks.values()) + 1}
    )


def _letters() -> dict[str, int]:
    """The printable letter that stands for each byte in a byte-level vocabulary, and the byte."""
    others = [byte for byte in range(256) if byte not in PRINTABLE]
    return {chr(byte): byte for byte in PRINTABLE} | {chr(256 + i): byte for i, byte in enumerate(others)}
