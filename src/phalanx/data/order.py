"""A keyed permutation computed per index: the order of an epoch without a table of it.

A Feistel network over pairs of digits: an index is `left × b + right` in a nearly square mixed base a × b, and each
round adds a hash of one digit to the other. The few images beyond the size are sent through again until they fall
inside (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002), which a base this tight makes rare.
"""

import math
from collections.abc import Callable
from typing import Any, overload

import numpy as np

from phalanx import mixing
from phalanx.data import hash

Integers = np.ndarray[Any, np.dtype[np.int64]]

_ROUNDS = 8  # an even number, so that the digits end where they began; with 6, orders of a few samples are uneven
MOST = 1 << 60  # indices of a permutation


class Permutation:
    """A bijection of range(size) onto itself, one for every key. Pure, no state, no table."""

    def __init__(self, size: int, key: int) -> None:
        assert 0 < size <= MOST
        self.size = size
        base = math.isqrt(size - 1) + 1
        self.bases = base, -(-size // base)
        self.keys = hash.words(key, _ROUNDS)

    @overload
    def __call__(self, i: int) -> int: ...
    @overload
    def __call__(self, i: Integers) -> Integers: ...
    def __call__(self, i: int | Integers) -> int | Integers:
        """Return the image of an index, or of an array of them."""
        if isinstance(i, np.ndarray):
            images: Integers = self._network(i.astype(np.int64), _mix_array)
            while (outside := images >= self.size).any():
                images[outside] = self._network(images[outside], _mix_array)
            return images
        assert 0 <= i < self.size
        image: int = self._network(int(i), mixing.mix)
        while image >= self.size:
            image = self._network(image, mixing.mix)
        return image

    def _network(self, i: Any, mix: Callable[[Any], Any]) -> Any:
        left_base, right_base = self.bases
        left, right = i // right_base, i % right_base
        for key in self.keys:
            left, right = right, (left + mix(right ^ key)) % left_base
            left_base, right_base = right_base, left_base
        return left * right_base + right


def _mix_array(x: Integers) -> Integers:
    return hash.mix(x.astype(np.uint32)).astype(np.int64)
