"""The key/value cache of a decoder, in pages (Kwon et al., arXiv 2309.06180).

A sequence takes the pages for all it may come to when it begins, so that none has to give way later; side by side where
there is room, for then its keys are read where they lie, and else wherever pages are free.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from phalanx.data.source import Array

PAGE = 16  # tokens


class Pages(NamedTuple):
    """The pages of one sequence."""

    numbers: tuple[int, ...]
    slots: Tensor  # int64 [pages × PAGE], where the cache is: those of the sequence's tokens, in order
    adjacent: bool
    slots_on_host: Array  # the same slots for numpy

    def rows(self, x: Tensor, stop: int) -> Tensor:
        """Return the first `stop` tokens of this sequence in x [heads, slots, …]; a view where pages are adjacent."""
        if self.adjacent:
            first = self.numbers[0] * PAGE
            return x[:, first : first + stop]
        return x[:, self.slots[:stop]]


class KVCache:
    """The cache: `keys` and `values` of each layer, [heads, slots, width]. Unwritten memory costs nothing on CPUs."""

    def __init__(self, layers: int, heads: int, width: int, pages: int, like: Tensor) -> None:
        shape = heads, pages * PAGE, width
        self.keys = [like.new_empty(shape) for _ in range(layers)]
        self.values = [like.new_empty(shape) for _ in range(layers)]
        self.free = [True] * pages

    @classmethod
    def within(cls, memory: int, longest: int, layers: int, heads: int, width: int, like: Tensor) -> "KVCache":
        """Make as many pages as `memory` bytes hold, but always those of one sequence of `longest` tokens and one more:
        what a model can see does not depend on the memory that happens to be free.
        """
        page_bytes = 2 * PAGE * layers * heads * width * like.element_size()
        return cls(layers, heads, width, max(-(-longest // PAGE) + 1, memory // page_bytes), like.detach())

    def reserve(self, tokens: int) -> Pages | None:
        """Return pages for so many tokens; None while there are not enough."""
        count = -(-tokens // PAGE)
        numbers = self._adjacent(count) or self._anywhere(count)
        if numbers is None:
            return None
        for number in numbers:
            self.free[number] = False

        slots = (torch.tensor(numbers)[:, None] * PAGE + torch.arange(PAGE)).flatten()
        adjacent = numbers == list(range(numbers[0], numbers[0] + count))
        return Pages(tuple(numbers), slots.to(self.keys[0].device), adjacent, slots.numpy())

    def release(self, pages: Pages) -> None:
        """Take back the pages of a sequence that has ended."""
        for number in pages.numbers:
            assert not self.free[number]
            self.free[number] = True

    def _adjacent(self, count: int) -> list[int] | None:
        run = 0
        for number, free in enumerate(self.free):
            run = run + 1 if free else 0
            if run == count:
                return list(range(number - count + 1, number + 1))
        return None

    def _anywhere(self, count: int) -> list[int] | None:
        numbers = [number for number, free in enumerate(self.free) if free]
        return numbers[:count] if len(numbers) >= count else None


class Chunk(NamedTuple):
    """New tokens of a sequence, which one call computes."""

    pages: Any  # what the program's reserve() gave: Pages, of the programs of this package
    start: int  # tokens of the sequence before these
    tokens: Sequence[int]
    wanted: int = 1  # of how many of the last tokens the scores of the next are wanted
    greedy: bool = False  # whether only the likeliest of these is wanted

    @property
    def stop(self) -> int:
        """The number of the sequence's tokens with these."""
        return self.start + len(self.tokens)
