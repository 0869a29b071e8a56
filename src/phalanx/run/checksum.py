"""The CRC-32 of a whole from those of its pieces, which several threads may have summed at once.

A CRC-32 is what is left of a polynomial over two elements after division by a fixed one. Appending n bits multiplies by
x^n; a sum of polynomials is an exclusive or. The highest bit of a word stands for x^0.
"""

from collections.abc import Iterable
from functools import lru_cache

_DIVISOR, _ONE, _X = 0xEDB88320, 1 << 31, 1 << 30


def joined(pieces: Iterable[tuple[int, int]]) -> int:
    """Return the CRC-32 of a concatenation, from the (CRC-32, size in bytes) of its pieces in order.

    For pieces b"ab" and b"c", joined([(crc32(b"ab"), 2), (crc32(b"c"), 1)]) is crc32(b"abc").
    """
    total = 0
    for crc, size in pieces:
        total = _product(_power(8 * size), total) ^ crc
    return total


@lru_cache
def _power(exponent: int) -> int:
    """Return x to a power, modulo the divisor, by squaring."""
    result, square = _ONE, _X
    while exponent:
        if exponent & 1:
            result = _product(result, square)
        square, exponent = _product(square, square), exponent >> 1
    return result


def _product(a: int, b: int) -> int:
    result = 0
    while a:
        if a & _ONE:
            result ^= b
        a = a << 1 & 0xFFFFFFFF
        b = b >> 1 ^ (_DIVISOR if b & 1 else 0)
    return result
