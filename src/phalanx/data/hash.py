"""The hash of `mixing.py` on numpy arrays: the same numbers as `nn/random.py`, without torch.

Everything random about data is a hash of a key and coordinates: the order of an epoch, masks, pairs, lengths.
"""

from typing import Any

import numpy as np

from phalanx import mixing

Words = np.ndarray[Any, np.dtype[np.uint32]]

_FIRST, _SECOND, _GOLDEN = (np.uint32(number) for number in (mixing.FIRST, mixing.SECOND, mixing.GOLDEN))
_16, _15 = np.uint32(16), np.uint32(15)
_STEPS = (
    np.arange(1, 4097, dtype=np.uint32) * _GOLDEN
)  # made once: a sample's arrays are short, so each operation counts


def mix(x: Words) -> Words:
    """Avalanche every word of a uint32 array."""
    x = x ^ (x >> _16)
    x *= _FIRST
    x ^= x >> _15
    x *= _SECOND
    x ^= x >> _16
    return x


def words(key: int, count: int) -> list[int]:
    """Return `count` random words of a key, each of 32 bits."""
    return [mixing.mix((key + number * mixing.GOLDEN) & mixing.WORD) for number in range(1, count + 1)]


def uniform(key: int, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the `words` of a key as numbers in [0, 1), float64 of 32 random bits each."""
    steps = _STEPS[:count] if count <= len(_STEPS) else np.arange(1, count + 1, dtype=np.uint32) * _GOLDEN
    return mix(steps + np.uint32(key)) / 2.0**32
