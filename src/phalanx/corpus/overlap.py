"""Which texts share a run of 13 words with an evaluation set (Brown et al., arXiv 2005.14165, appendix C).

Words are compared without case and punctuation. Every run of 13 is one number of 46 bits; those of the test sets of
WikiText and LAMBADA come with the program.
"""

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from phalanx.errors import InputError
from phalanx.score.detokenize import wikitext
from phalanx.strict_json import parse_json

WORDS = 13
BITS = 46  # of a hash: a novel then meets one of 600,000 by chance once in a thousand times
BUILT_IN = "assets/overlap.npy"

Hashes = np.ndarray[Any, np.dtype[np.uint64]]

_WORD = re.compile(r"\w+")
_PRIME = np.uint64(0x9E3779B97F4A7C15)


@lru_cache(1 << 20)
def _code(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def hashes(text: str) -> Hashes:
    """Return a number for every run of 13 words, in order: [words - 12]; none for a shorter text."""
    codes = np.array([_code(word) for word in _WORD.findall(text.lower())], np.uint64)
    count = len(codes) - WORDS + 1
    if count < 1:
        return np.zeros(0, np.uint64)

    mixed = np.zeros(count, np.uint64)
    for k in range(WORDS):  # modulo 2^64, as uint64 wraps around
        mixed = mixed * _PRIME + codes[k : k + count]
    mixed ^= mixed >> np.uint64(29)
    return (mixed * _PRIME) >> np.uint64(64 - BITS)


def of_texts(texts: Iterable[str]) -> Hashes:
    """Return the hashes of all runs of some texts, each once, rising."""
    runs = [hashes(text) for text in texts]
    return np.unique(np.concatenate(runs)) if runs else np.zeros(0, np.uint64)


def first_shared(text: str, known: Hashes) -> str:
    """Return the first run of words that a text shares with the known ones; nothing if there is none."""
    mine = hashes(text)
    if not len(mine) or not len(known):
        return ""
    places = np.searchsorted(known, mine)
    shared = np.flatnonzero(known[np.minimum(places, len(known) - 1)] == mine)
    if not len(shared):
        return ""
    return " ".join(_WORD.findall(text.lower())[shared[0] : shared[0] + WORDS])


def built_in() -> Hashes:
    """Return the hashes of all runs of 13 words in the test sets of WikiText and LAMBADA, which are bundled."""
    with files("phalanx").joinpath(BUILT_IN).open("rb") as file:
        return unpack(np.load(file, allow_pickle=False))


def pack(known: Hashes) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Return rising numbers as their differences, which fit in half the bytes."""
    steps = np.diff(known, prepend=np.uint64(0))
    assert steps.max(initial=0) < 1 << 32
    return steps.astype(np.uint32)


def unpack(steps: np.ndarray[Any, np.dtype[np.uint32]]) -> Hashes:
    """Return the numbers of which `pack` made differences."""
    return np.cumsum(steps, dtype=np.uint64)


def of_file(file: Path) -> Hashes:
    """Return the hashes of all runs of 13 words in an evaluation set: the texts of a .jsonl file, whatever their keys,
    or the lines of any other file. InputError where it cannot be read.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from None
    if file.suffix == ".jsonl":
        return of_texts(text for n, line in enumerate(lines, 1) if line.strip() for text in _texts(file, n, line))
    return of_texts(lines) if "= " not in lines[0][:4] else of_texts(wikitext("\n".join(lines)).split("\n"))


def _texts(file: Path, number: int, line: str) -> list[str]:
    try:
        record = parse_json(line)
    except ValueError:
        raise InputError(f"{file}, line {number} is not JSON; was it cut off?") from None
    return [value for value in record.values() if isinstance(value, str)] if isinstance(record, dict) else []
