"""Samples from outside the package: data.train, data.valid and data.test name their class, as "module:Name"."""

from collections.abc import Sequence
from typing import Protocol

from phalanx import registry
from phalanx.config import Config
from phalanx.data.source import PARTS, Sample, Source, cut
from phalanx.data.tokenize import Tokenizer
from phalanx.errors import InputError


class CustomSource(Source, Protocol):
    """A source from outside the package. It raises InputError for what it cannot read."""

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        """Open it for a run, with the tokenizer of its data."""

    def fingerprint(self) -> str:
        """Return a text that differs where its samples do, by which a run knows that they are still what they were."""
        ...


class Part:
    """Some of a source's samples, from number `first` to before `last`, each seen to be one that the model takes."""

    def __init__(self, source: Source, name: str, limits: tuple[int, int], first: int, last: int) -> None:
        self.source, self.name, self.first, self.last = source, name, first, last
        self.sequence, self.vocab = limits

    def __len__(self) -> int:
        return self.last - self.first

    def sample(self, i: int, draw: int) -> Sample:
        """Return sample `i` of the part. InputError for one of another length, or of other words."""
        sample = self.source.sample(self.first + i, draw)
        where = f"{self.name}: sample {self.first + i}"
        for what, values in ("tokens", sample.tokens), ("labels", sample.labels):
            if len(values) != self.sequence:
                raise InputError(f"{where} has {len(values)} {what}; data.sequence={self.sequence} of them are wanted")
            if not -(what == "labels") <= values.min() <= values.max() < self.vocab:
                raise InputError(f"{where} has {what} beyond the {self.vocab} of the tokenizer")
        return sample


def open_custom(
    name: str, config: Config, tokenizer: Tokenizer, split: Sequence[float] | None = None, part: int = 0
) -> Source:
    """Return the source of that name, cut to `part` of the fractions `split` of its samples, or whole.

    InputError where the part has none, or the first is not one that the model takes.
    """
    source = registry.SOURCES.find(name)(config, tokenizer)
    first, last = (0, len(source)) if split is None else cut(len(source), split, part)
    if first == last:
        raise InputError(
            f"{name} has {len(source)} samples, of which data.split={list(split or ())} leaves none for {PARTS[part]}; "
            "change the fractions, or name a set of its own, as data.valid=PREFIX"
        )
    samples = Part(source, name, (config.data.sequence, tokenizer.vocab), first, last)
    samples.sample(0, 0)  # what is wrong with all of them is told before a run begins
    return samples
