"""Keys and values of the tokens that a GPT has seen, in pages (Kwon et al., arXiv 2309.06180).

A sequence takes the pages for all it may come to when it begins, so that none has to give way later; side by side where
there is room, for then its keys are read where they lie, and else wherever pages are free.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from phalanx.data.source import Array

PAGE = 16  # tokens


class Place(NamedTuple):
    """The pages of a sequence, and the slots of its tokens in order, int64 [pages × PAGE], also as numbers."""

    pages: tuple[int, ...]
    slots: Tensor
    together: bool
    numbers: Array

    def rows(self, x: Tensor, stop: int) -> Tensor:
        """The first `stop` tokens of this sequence in x [heads, slots, …]; a view where its pages are adjacent."""
        if self.together:
            first = self.pages[0] * PAGE
            return x[:, first : first + stop]
        return x[:, self.slots[:stop]]


class Cache:
    """`keys` and `values` of each layer: [heads, slots, width]. What was never written to takes no memory on CPUs."""

    def __init__(self, layers: int, heads: int, width: int, pages: int, like: Tensor) -> None:
        shape = heads, pages * PAGE, width
        self.keys = [like.new_empty(shape) for _ in range(layers)]
        self.values = [like.new_empty(shape) for _ in range(layers)]
        self.free = [True] * pages

    @classmethod
    def within(cls, memory: int, longest: int, layers: int, heads: int, width: int, like: Tensor) -> "Cache":
        """As many pages as so many bytes hold, but always those of one sequence of `longest` tokens and one more: what
        a model can see does not depend on the memory that happens to be free.
        """
        a_page = 2 * PAGE * layers * heads * width * like.element_size()
        return cls(layers, heads, width, max(-(-longest // PAGE) + 1, memory // a_page), like.detach())

    def reserve(self, tokens: int) -> Place | None:
        """Room for so many tokens; None while there is not enough."""
        count = -(-tokens // PAGE)
        pages = self._together(count) or self._anywhere(count)
        if pages is None:
            return None
        for page in pages:
            self.free[page] = False
        slots = (torch.tensor(pages)[:, None] * PAGE + torch.arange(PAGE)).flatten()
        together = pages == list(range(pages[0], pages[0] + count))
        return Place(tuple(pages), slots.to(self.keys[0].device), together, slots.numpy())

    def release(self, place: Place) -> None:
        """The sequence has ended."""
        for page in place.pages:
            assert not self.free[page]
            self.free[page] = True

    def _together(self, count: int) -> list[int] | None:
        run = 0
        for page, free in enumerate(self.free):
            run = run + 1 if free else 0
            if run == count:
                return list(range(page - count + 1, page + 1))
        return None

    def _anywhere(self, count: int) -> list[int] | None:
        pages = [page for page, free in enumerate(self.free) if free]
        return pages[:count] if len(pages) >= count else None


class New(NamedTuple):
    """Tokens that a sequence goes on with: where its cache is, where they begin in it, and of how many of the last the
    scores are wanted, or only which token is the likeliest.
    """

    place: Place
    start: int
    tokens: Sequence[int]
    wanted: int = 1
    greedy: bool = False

    @property
    def stop(self) -> int:
        """Tokens of the sequence, with these."""
        return self.start + len(self.tokens)
