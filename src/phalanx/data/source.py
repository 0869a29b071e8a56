"""Samples by number: sets and their splits, epochs without end, blends. Pure functions throughout.

The whole state of a loader is one integer, the number of the next sample, on any number of processes.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np

from phalanx import mixing
from phalanx.data.indexed import IndexedDataset
from phalanx.data.order import Permutation
from phalanx.data.source_names import is_remote, names_source
from phalanx.data.verify import open_set
from phalanx.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]

_EPOCH, _BLOCK = 0, 1  # what a key orders
_SLOTS = 4096  # of a blend's block: weights are exact to 1/4096

_READERS = 32  # samples of remote sets that are asked for side by side

_order = lru_cache(64)(Permutation)  # a few, as many samples in turn ask for the same


class Sample(NamedTuple):
    """One sequence; arrays are 1-D and equally long."""

    tokens: Array  # int64
    labels: Array  # int64, -1 where nothing is predicted
    segment: Array | None  # int64, 0 or 1 (BERT)
    document: Array | None  # int32; attention stays within equal numbers, padding is -1; None: attend everywhere
    related: int  # 0 = the second segment follows the first, 1 = it does not; a class; -1 = no question
    value: float = math.nan  # the number to predict, where there is one

    @property
    def used(self) -> int:
        """Positions before those that only fill up."""
        meant = self.labels >= 0 if self.document is None else self.document >= 0
        return int(np.flatnonzero(meant).max(initial=-1)) + 1


class Source(Protocol):
    """Samples of one epoch: the same answer for the same arguments, for ever."""

    def __len__(self) -> int:
        """Return the samples of an epoch."""
        ...

    def sample(self, i: int, draw: int) -> Sample:
        """Return sample `i`; `draw` keys what is random about it (masks)."""
        ...


class Stream(Protocol):
    """Samples without end."""

    def __getitem__(self, n: int) -> Sample:
        """Return the n-th sample of the run, 0-based."""
        ...


class Endless:
    """A source's epochs one after the other, each in its own order."""

    def __init__(self, source: Source, seed: int) -> None:
        self.source, self.seed = source, seed

    def __getitem__(self, n: int) -> Sample:
        epoch, i = divmod(n, len(self.source))
        order = _order(len(self.source), mixing.key(self.seed, _EPOCH, epoch))
        return self.source.sample(order(i), n)


class Blend:
    """Several streams by weight. Each block of 4,096 samples holds every stream's exact share, in a keyed order."""

    def __init__(self, parts: Sequence[Stream], weights: Sequence[float], seed: int) -> None:
        self.parts, self.seed = parts, seed
        shares = [weight / sum(weights) * _SLOTS for weight in weights]
        self.counts = [math.floor(share) for share in shares]
        by_remainder = sorted(range(len(parts)), key=lambda k: self.counts[k] - shares[k])
        for k in by_remainder[: _SLOTS - sum(self.counts)]:
            self.counts[k] += 1
        if 0 in self.counts:
            least = weights[self.counts.index(0)]
            raise InputError(f"data.train: weight {least:g} is under 1/{_SLOTS} of the sum; raise it or leave it out")
        self.starts = np.cumsum([0, *self.counts[:-1]])

    def __getitem__(self, n: int) -> Sample:
        block, slot = divmod(n, _SLOTS)
        slot = _order(_SLOTS, mixing.key(self.seed, _BLOCK, block))(slot)
        k = int(np.searchsorted(self.starts, slot, "right")) - 1
        return self.parts[k][block * self.counts[k] + slot - int(self.starts[k])]


class Concatenation:
    """Several sources one after the other, as one. Draws count from each source's first sample, as its own would."""

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def sample(self, i: int, draw: int) -> Sample:
        """Return sample `i` of all."""
        k = int(np.searchsorted(self.ends, i, "right"))
        start = int(self.ends[k]) - len(self.parts[k])
        return self.parts[k].sample(i - start, max(0, draw - start))


def ask(sample: Callable[[int], Sample], numbers: Sequence[int], names: Iterable[str]) -> list[Sample]:
    """Return samples by number, of the data of these names. Those of remote sets are asked for side by side, as each
    waits for its store; sources from outside may count on one caller at a time.
    """
    names = [*names]
    if not any(map(is_remote, names)) or any(map(names_source, names)):
        return [sample(number) for number in numbers]
    with ThreadPoolExecutor(_READERS) as pool:
        return [*pool.map(sample, numbers)]


class Documents(NamedTuple):
    """A range of a set's documents: a split of it."""

    dataset: IndexedDataset
    first: int
    last: int  # exclusive
    name: str

    @property
    def sequences(self) -> tuple[int, int]:
        """First and one past the last sequence number."""
        marks = self.dataset.documents
        return int(marks[self.first]), int(marks[self.last])

    @property
    def tokens(self) -> tuple[int, int]:
        """First and one past the last token of the set's token stream."""
        data, size = self.dataset, self.dataset.tokens.itemsize
        first, last = (int(data.starts[s]) // size if s < len(data) else len(data.tokens) for s in self.sequences)
        return first, last


def split_weight(name: str) -> tuple[str, float]:
    """Return PREFIX and weight of PREFIX@0.7; without @ the weight is 1. InputError for one that is not above 0."""
    prefix, at, text = name.rpartition("@")
    try:
        weight = float(text)
    except ValueError:
        return name, 1.0
    if not at or not prefix:
        return name, 1.0
    if not (0 < weight < math.inf):
        raise InputError(f"{name}: the weight after @ must be above 0")
    return prefix, weight


PARTS = ("training", "validation", "testing")  # of data.split


def open_sets(
    sets: Sequence[str], split: Sequence[float] | None = None, part: int = 0
) -> list[tuple[Documents, float]]:
    """Return the sets "PREFIX@weight", each cut to `part` of the fractions `split` of its documents, or whole."""
    opened = []
    for name in sets:
        prefix, weight = split_weight(name)
        dataset = open_set(prefix)
        count = len(dataset.documents) - 1
        first, last = (0, count) if split is None else cut(count, split, part)
        if first == last:
            documents = f"{count:,} document{'s' if count > 1 else ''}"
            raise InputError(
                f"data.split={list(split or ())} leaves none of the {documents} of {prefix} for {PARTS[part]}; prepare "
                "it with smaller documents (phalanx prepare … --document blank-line), change the fractions, or name a "
                "set of its own, as data.valid=PREFIX"
            )

        opened.append((Documents(dataset, first, last, prefix), weight))
    return opened


def cut(count: int, split: Sequence[float], part: int) -> tuple[int, int]:
    """Return the first and one past the last of the documents, or samples, of `part`: a part with a fraction above 0
    gets one at least, the last parts first if they are few. InputError where all fractions are 0.
    """
    whole = sum(split)
    if whole <= 0:
        raise InputError(f"data.split={list(split)}: the fractions must not all be 0")
    marks = [0]
    for k, fraction in enumerate(split):
        marks.append(max(round(count * sum(split[: k + 1]) / whole), marks[-1] + (fraction > 0)))
    marks[-1] = count
    for k in reversed(range(1, len(split))):
        marks[k] = max(0, min(marks[k], marks[k + 1] - (split[k] > 0)))
    return marks[part], marks[part + 1]
