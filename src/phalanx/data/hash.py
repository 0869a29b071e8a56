"""The hash of `mixing.py` on numpy arrays: the same numbers as `nn/random.py`, without torch.

Everything random about data is a hash of a key and coordinates: the order of an epoch, masks, pairs, lengths.
"""

from typing import Any

import numpy as np

from phalanx import mixing

Words = np.ndarray[Any, np.dtype[np.uint32]]


def mix(x: Words) -> Words:
    """Avalanche every word of a uint32 array."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(mixing.FIRST)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(mixing.SECOND)
    return x ^ (x >> np.uint32(16))


def words(key: int, count: int) -> list[int]:
    """`count` random words of a key."""
    return [mixing.mix((key + number * mixing.GOLDEN) & mixing.WORD) for number in range(1, count + 1)]


def uniform(key: int, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The `words` of a key as numbers in [0, 1), float64 of 32 random bits each."""
    return mix(np.arange(1, count + 1, dtype=np.uint32) * np.uint32(mixing.GOLDEN) + np.uint32(key)) / 2.0**32
