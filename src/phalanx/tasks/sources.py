"""The training stream and the held-out source of a task, from the configuration's sets and splits."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import cast

from phalanx import registry
from phalanx.config import Config, DataConfig
from phalanx.data.custom import open_custom
from phalanx.data.indexed import IndexedDataset
from phalanx.data.manifest import Manifest, manifest_path, tokenizer_path
from phalanx.data.source import (
    Blend,
    Concatenation,
    Documents,
    Endless,
    Source,
    Stream,
    open_sets,
    split_weight,
)
from phalanx.data.source_names import names_source
from phalanx.data.tokenize import Tokenizer, load_tokenizer
from phalanx.errors import InputError
from phalanx.train.task import Task

TRAIN, VALID, TEST = 0, 1, 2
_LOOK = 1 << 20  # tokens of a set without a manifest that are checked: a start must stay quick, whatever its size


class Splits(Task, ABC):
    """The samples of a task whose sets are prepared; they are opened when they are asked for."""

    def __init__(self, config: Config, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer

    @abstractmethod
    def source(self, documents: Documents) -> Source:
        """Return the samples of a range of documents."""

    @cached_property
    def train(self) -> Stream:
        """Training samples without end: shuffled, blended by weight where there are several sets."""
        data, seed = self.config.data, self.config.train.seed
        parts = self._parts(data.train, None if data.valid else data.split, TRAIN)
        streams = [Endless(source, seed + number) for number, (source, _) in enumerate(parts)]
        return streams[0] if len(streams) == 1 else Blend(streams, [weight for _, weight in parts], seed)

    @cached_property
    def valid(self) -> Source | None:
        """Held-out samples, where some are kept apart."""
        return self.held_out(VALID)

    def held_out(self, part: int) -> Source | None:
        """Return all held-out samples in order: the sets given for `part`, else that part of the training sets' split.

        None where there are none.
        """
        data = self.config.data
        if named := data.valid if part == VALID else data.test:
            parts = self._parts(named, None, TRAIN)
        elif data.valid or data.split[part] == 0:
            return None
        else:
            parts = self._parts(data.train, data.split, part)

        sources = [source for source, _ in parts]
        return sources[0] if len(sources) == 1 else Concatenation(sources)

    def _parts(self, names: Sequence[str], split: Sequence[float] | None, part: int) -> list[tuple[Source, float]]:
        """Return the samples of each set PREFIX@weight or module:Name, whole or `part` of `split`, and its weight."""
        parts = list[tuple[Source, float]]()
        for name in names:
            if names_source(name):
                source_name, weight = split_weight(name)
                parts.append((open_custom(source_name, self.config, self.tokenizer, split, part), weight))
            else:
                parts += [(self._source(documents), weight) for documents, weight in open_sets([name], split, part)]
        return parts

    def _source(self, documents: Documents) -> Source:
        """Return what `source` does. InputError where a task from outside gives none."""
        task = self.config.task
        with registry.blamed("task", task, "source()"):
            source: object = self.source(documents)
        if not (hasattr(source, "__len__") and hasattr(source, "sample")):
            raise InputError(f"task={task}: source() gave {type(source).__name__}, which has no len() and sample()")
        return cast(Source, source)


def tokenizer_of(data: DataConfig) -> Tokenizer:
    """Return the tokenizer of the data: that stored with the first set, or data.tokenizer, which Megatron's sets need.

    InputError when a set was made with another: the tokenizers themselves are compared, not their names; and without
    data.tokenizer where there are sources of one's own alone, which have none.
    """
    names = (*data.train, *data.valid, *data.test)
    if not names:
        raise InputError("data.train is empty; name a prepared set, as data.train=books (see phalanx prepare --help)")
    sets = [split_weight(name)[0] for name in names if not names_source(name)]
    if not sets and not data.tokenizer:
        raise InputError(f"{names[0]} has no tokenizer beside it; name one, as data.tokenizer=gpt2")

    tokenizer = load_tokenizer(data.tokenizer or _stored(sets[0]))
    for prefix in sets:
        dataset = IndexedDataset(prefix)  # a missing or truncated set is reported as such
        if data.tokenizer and not manifest_path(prefix).exists():
            dataset.read(0, _LOOK, tokenizer.vocab)
            continue

        made = Manifest.read(prefix)
        if not tokenizer.made(made.tokenizer_sha256):
            ours = data.tokenizer or f"that of {sets[0]}"
            raise InputError(
                f"{prefix} was prepared with the tokenizer {made.tokenizer} of {made.vocab} tokens, not with {ours} "
                f"of {tokenizer.vocab}; use sets of one tokenizer, and leave data.tokenizer empty to take theirs"
            )
    return tokenizer


def _stored(prefix: str) -> str:
    """Return the path of the tokenizer kept with a set. InputError for a set that has none, such as Megatron's own."""
    IndexedDataset(prefix)
    if not tokenizer_path(prefix).is_file():
        raise InputError(f"{prefix} has no {prefix}.tokenizer.json beside it; say with data.tokenizer what made it")
    return str(tokenizer_path(prefix))
