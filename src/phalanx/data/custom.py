"""Samples from outside the package: data.train, data.valid and data.test name their class, as "module:Name"."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from phalanx import registry
from phalanx.config import Config
from phalanx.data.order import MOST
from phalanx.data.source import PARTS, Array, Sample, Source, cut, split_weight
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

    def __init__(self, source: Source, key: str, name: str, limits: tuple[int, int], first: int, last: int) -> None:
        self.source, self.key, self.name, self.first, self.last = source, key, name, first, last
        self.sequence, self.vocab = limits

    def __len__(self) -> int:
        return self.last - self.first

    def sample(self, i: int, draw: int) -> Sample:
        """Return sample `i` of the part. InputError for one of another length, or of other words."""
        number = self.first + i
        with registry.blamed(self.key, self.name, f"sample({number}, …)"):
            sample = self.source.sample(number, draw)
        where = f"{self.name}: sample {number}"
        if not isinstance(sample, Sample):
            raise InputError(f"{where} is {type(sample).__name__}; phalanx.data.source.Sample is wanted")

        tokens = self._numbers(where, "tokens", sample.tokens, 0, self.vocab)
        labels = self._numbers(where, "labels", sample.labels, -1, self.vocab)
        segment, document = sample.segment, sample.document
        if segment is not None:
            segment = self._numbers(where, "segment", segment, 0, 2)
        if document is not None:
            document = self._numbers(where, "document", document, -1, 1 << 31).astype(np.int32)
        if not isinstance(sample.related, int | np.integer):
            raise InputError(f"{where} has related={sample.related!r:.60}; a whole number is wanted, -1 for none")
        return sample._replace(tokens=tokens, labels=labels, segment=segment, document=document)

    def _numbers(self, where: str, what: str, values: Any, least: int, end: int) -> Array:
        """Return `values` as an array of its own, int64, whatever order their bytes have and whoever may write them.
        InputError unless they are as many whole numbers as a sample has, from `least` to before `end`.
        """
        shape = tuple(getattr(values, "shape", ()))
        if len(shape) != 1:
            raise InputError(f"{where} has {what} that are no array [{self.sequence}]: {type(values).__name__}")
        if shape != (self.sequence,):
            raise InputError(f"{where} has {shape[0]} {what}; data.sequence={self.sequence} of them are wanted")
        array = np.asarray(values)
        if array.dtype.kind not in "iu":
            raise InputError(f"{where} has {what} of {array.dtype}; whole numbers are wanted")
        if not least <= array.min() <= array.max() < end:
            beyond = f"the {end} of the tokenizer" if end == self.vocab else f"{least} to {end - 1}"
            raise InputError(f"{where} has {what} beyond {beyond}")
        return np.array(array, np.int64)


def _key(name: str, config: Config) -> str:
    """Return the key of [data] that names a source."""
    for key in ("train", "valid", "test"):
        if name in {split_weight(each)[0] for each in getattr(config.data, key)}:
            return f"data.{key}"
    return "data.valid"  # of one that is shown or judged alone


def open_source(name: str, config: Config, tokenizer: Tokenizer) -> CustomSource:
    """Return the source of that name, whole."""
    with registry.blamed(_key(name, config), name, "its construction"):
        source: CustomSource = registry.SOURCES.find(name)(config, tokenizer)
    return source


def fingerprint_of(name: str, config: Config, tokenizer: Tokenizer) -> str:
    """Return the fingerprint of the source of that name. InputError where it is no text."""
    source = open_source(name, config, tokenizer)
    with registry.blamed(_key(name, config), name, "fingerprint()"):
        text = source.fingerprint()
        str(text).encode()  # half a character, which no file could hold, is its fault too
    if not isinstance(text, str):
        raise InputError(
            f"{_key(name, config)}={name}: fingerprint() gave {type(text).__name__} {text!r:.60}, not text"
        )
    return text


def open_custom(
    name: str, config: Config, tokenizer: Tokenizer, split: Sequence[float] | None = None, part: int = 0
) -> Source:
    """Return the source of that name, cut to `part` of the fractions `split` of its samples, or whole.

    InputError where the part has none, or the first is not one that the model takes.
    """
    source = open_source(name, config, tokenizer)
    with registry.blamed(_key(name, config), name, "len()"):
        count = len(source)
    if count > MOST:
        raise InputError(f"{name}: len() is {count:,}; a source has {MOST:,} samples at most")
    first, last = (0, count) if split is None else cut(count, split, part)
    if first == last:
        raise InputError(
            f"{name} has {count} samples, of which data.split={list(split or ())} leaves none for {PARTS[part]}; "
            "change the fractions, or name a set of its own, as data.valid=PREFIX"
        )
    samples = Part(source, _key(name, config), name, (config.data.sequence, tokenizer.vocab), first, last)
    samples.sample(0, 0)  # what is wrong with all of them is told before a run begins
    return samples
