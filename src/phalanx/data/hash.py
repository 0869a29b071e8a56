"""The stateless hash of `nn/random.py` on numpy arrays: the same numbers, without torch.

Everything random about data is a hash of a key and coordinates: the order of an epoch, masks, pairs, lengths.
"""

from typing import Any

import numpy as np

Words = np.ndarray[Any, np.dtype[np.uint32]]

_WORD = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B


def mix(x: Words) -> Words:
    """Avalanche every word of a uint32 array."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(_FIRST)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(_SECOND)
    return x ^ (x >> np.uint32(16))


def mix_word(x: int) -> int:
    """`mix` of one word as a Python int."""
    x = ((x ^ (x >> 16)) * _FIRST) & _WORD
    x = ((x ^ (x >> 15)) * _SECOND) & _WORD
    return x ^ (x >> 16)


def key(*parts: int) -> int:
    """A 32-bit key of any natural numbers; parts above 32 bits count as several words."""
    folded = _GOLDEN
    for part in parts:
        assert part >= 0
        folded = mix_word(folded ^ (part & _WORD))
        while part := part >> 32:
            folded = mix_word(folded ^ (part & _WORD))
    return folded


def words(key: int, count: int) -> list[int]:
    """`count` random words of a key."""
    return [mix_word((key + number * _GOLDEN) & _WORD) for number in range(1, count + 1)]


def uniform(key: int, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The `words` of a key as numbers in [0, 1), float64 of 32 random bits each."""
    return mix(np.arange(1, count + 1, dtype=np.uint32) * np.uint32(_GOLDEN) + np.uint32(key)) / 2.0**32
