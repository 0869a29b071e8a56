"""A keyed permutation computed per index: the order of an epoch without a table of it.

A Feistel network of four rounds on the smallest even number of bits that holds the size; an image outside the range is
encrypted again until it falls inside (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). On average
that takes fewer than four walks.
"""

from typing import Any, overload

import numpy as np

from phalanx.data import hash

Integers = np.ndarray[Any, np.dtype[np.int64]]

_ROUNDS = 4


class Permutation:
    """A bijection of range(size) onto itself, one for every key. Pure, no state, no table."""

    def __init__(self, size: int, key: int) -> None:
        assert 0 < size <= 1 << 60
        self.size = size
        self.half = max(1, ((size - 1).bit_length() + 1) // 2)
        self.keys = [hash.key(key, number) for number in range(_ROUNDS)]

    @overload
    def __call__(self, i: int) -> int: ...
    @overload
    def __call__(self, i: Integers) -> Integers: ...
    def __call__(self, i: int | Integers) -> int | Integers:
        """The image of an index, or of an array of them."""
        if isinstance(i, np.ndarray):
            return self._many(i)
        assert 0 <= i < self.size
        image = self._once(int(i))
        while image >= self.size:
            image = self._once(image)
        return image

    def _once(self, i: int) -> int:
        mask = (1 << self.half) - 1
        left, right = i >> self.half, i & mask
        for key in self.keys:
            left, right = right, left ^ (hash.mix_word(right ^ key) & mask)
        return left << self.half | right

    def _many(self, i: Integers) -> Integers:
        image = self._network(i.astype(np.uint64))
        while (outside := image >= self.size).any():
            image[outside] = self._network(image[outside])
        return image.astype(np.int64)

    def _network(self, i: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
        half = np.uint64(self.half)
        mask = np.uint64((1 << self.half) - 1)
        left, right = i >> half, i & mask
        for key in self.keys:
            mixed = hash.mix(right.astype(np.uint32) ^ np.uint32(key)).astype(np.uint64)
            left, right = right, left ^ (mixed & mask)
        return left << half | right
