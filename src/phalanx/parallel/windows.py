"""Windows of attention over sequences that a ring divides: who meets whose keys, in numbers alone.

A rank of `ranks` has two chunks of a sequence, one from the front and its mirror from the back (context_parallel.py).
No torch, so planning is quick.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from typing import NamedTuple

ROWS = 512  # queries that meet the keys of their windows at once: each has a score for all these keys


class Window(NamedTuple):
    """Keys nearer than `width` positions, before a query or, unless `causal`, on both sides of it."""

    width: int
    causal: bool


class Near(NamedTuple):
    """Some of a rank's queries, and some of the keys of one rank that they may see: slices of what these ranks have."""

    rows: slice
    keys: slice

    @property
    def pairs(self) -> int:
        """The number of scores."""
        rows, keys = (range(at.start, at.stop) for at in self)
        return len(rows) * len(keys)


def near(rank: int, source: int, ranks: int, part: int, window: Window) -> Iterator[Near]:
    """Yield which of a rank's `part` of the queries meet which keys of the rank `source`: some queries, and from the
    window of the first of them to that of the last; those first that see themselves.
    """
    half = part // 2
    pairs = product(enumerate(_starts(rank, ranks, half)), enumerate(_starts(source, ranks, half)))
    for (i, own), (j, theirs) in sorted(pairs, key=lambda pair: pair[0] != pair[1] or rank != source):
        for first in range(own, own + half, ROWS):
            last = min(first + ROWS, own + half)
            low = max(first - window.width + 1, theirs)
            high = min(last if window.causal else last + window.width - 1, theirs + half)
            if low < high:
                rows = slice(first - own + i * half, last - own + i * half)
                yield Near(rows, slice(low - theirs + j * half, high - theirs + j * half))


def _starts(rank: int, ranks: int, half: int) -> tuple[int, int]:
    """Return where the two chunks of a rank begin, each of `half` its part."""
    return rank * half, (2 * ranks - 1 - rank) * half


@cache
def steps(ranks: int, part: int, window: Window) -> Sequence[int]:
    """Return from how many ranks behind come the keys that any rank sees, in order: 0, its own, and some others."""
    pairs = product(range(ranks), range(ranks))
    return sorted({(a - b) % ranks for a, b in pairs if any(near(a, b, ranks, part, window))})


@cache
def pairs(ranks: int, part: int, window: Window) -> int:
    """Return the scores of a sequence that the rank with most of them computes."""
    return max(
        sum(each.pairs for source in range(ranks) for each in near(rank, source, ranks, part, window))
        for rank in range(ranks)
    )
