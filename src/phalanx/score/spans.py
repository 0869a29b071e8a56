"""From scores of where an answer begins and ends to the answer (Devlin et al., arXiv 1810.04805, section 4.2)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Span(NamedTuple):
    """An answer's score, and its first and last token."""

    score: float
    first: int
    last: int


def best(scores: Floats, longest: int) -> Span:
    """The likeliest span of at most `longest` tokens: the highest sum of the score [tokens, 2] to begin and to end."""
    count = len(scores)
    if not count:
        return Span(float("-inf"), 0, -1)
    sums = scores[:, :1] + scores[None, :, 1]
    apart = np.arange(count)[None] - np.arange(count)[:, None]
    sums = np.where((apart >= 0) & (apart < longest), sums, -np.inf)
    first, last = divmod(int(sums.argmax()), count)
    return Span(float(sums[first, last]), first, last)
