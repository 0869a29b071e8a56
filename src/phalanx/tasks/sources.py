"""The training stream and the held-out source of a task, from the configuration's sets and splits."""

from collections.abc import Callable

from phalanx.config import DataConfig
from phalanx.data.manifest import Manifest
from phalanx.data.source import Blend, Concatenation, Documents, Endless, Source, Stream, open_sets
from phalanx.data.tokenize import Tokenizer, load_tokenizer
from phalanx.errors import InputError

TRAIN, VALID, TEST = 0, 1, 2

MakeSource = Callable[[Documents], Source]


def training(data: DataConfig, seed: int, make: MakeSource) -> Stream:
    """The endless shuffled stream over data.train, blended by weight where there are several sets."""
    parts = open_sets(data.train, None if data.valid else data.split, TRAIN)
    streams = [Endless(make(documents), seed + number) for number, (documents, _) in enumerate(parts)]
    return streams[0] if len(streams) == 1 else Blend(streams, [weight for _, weight in parts], seed)


def held_out(data: DataConfig, make: MakeSource, part: int = VALID) -> Source | None:
    """All held-out samples in order: the sets given for `part`, else that part of the training sets' split."""
    named = data.valid if part == VALID else data.test
    if named:
        parts = open_sets(named, None, TRAIN)
    elif data.valid or data.split[part] == 0:
        return None
    else:
        parts = open_sets(data.train, data.split, part)
    sources = [make(documents) for documents, _ in parts]
    return sources[0] if len(sources) == 1 else Concatenation(sources)


def tokenizer_of(data: DataConfig) -> Tokenizer:
    """The tokenizer of the data: the one stored with the first set, unless data.tokenizer names another that agrees."""
    sets = [*data.train, *data.valid, *data.test]
    if not sets:
        raise InputError(
            "data.train is empty; name a prepared set, as in data.train=books (see phalanx prepare --help)"
        )
    stored = Manifest.of(sets[0])
    for other in sets[1:]:
        if (found := Manifest.of(other)).vocab != stored.vocab:
            raise InputError(f"{other} has {found.vocab} tokens in its vocabulary but {sets[0]} has {stored.vocab}")
    if not data.tokenizer:
        return stored.load_tokenizer()
    tokenizer = load_tokenizer(data.tokenizer)
    if tokenizer.vocab != stored.vocab:
        raise InputError(
            f"data.tokenizer={data.tokenizer} has {tokenizer.vocab} tokens but {sets[0]} was prepared with "
            f"{stored.tokenizer} of {stored.vocab}; leave data.tokenizer empty to use that one"
        )
    return tokenizer
