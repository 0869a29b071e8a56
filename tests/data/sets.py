"""Small prepared sets whose every token tells where it lies: the token at place p of the stream is FIRST + p."""

from collections.abc import Iterable, Sequence
from itertools import chain, count, islice
from pathlib import Path

import numpy as np

from phalanx.data.indexed import IndexedDataset, IndexedWriter
from phalanx.data.source import Documents

FIRST = 1000  # of BERT's vocabulary, ordinary words from here on
VOCAB = 30_522


def write_set(prefix: Path, documents: Iterable[Sequence[Sequence[int]]], vocab: int = VOCAB) -> None:
    """Write a set of documents, each the sequences of its tokens."""
    writer = IndexedWriter(prefix, vocab)
    for document in documents:
        ends = np.cumsum([len(sequence) for sequence in document], dtype=np.int64)
        writer.extend(np.array([*chain(*document)], np.int64), ends, np.array([len(document)]))
    writer.close()


def numbered(prefix: Path, documents: Sequence[Sequence[int]], eod: int | None = None) -> Documents:
    """A set of `documents`, each the lengths of its sentences; with `eod`, the last token of each document is that."""
    tokens = count(FIRST)
    numbers = [[[*islice(tokens, length)] for length in sentences] for sentences in documents]
    assert next(tokens) <= VOCAB
    if eod is not None:
        for document in numbers:
            document[-1][-1] = eod
    write_set(prefix, numbers)
    return Documents(IndexedDataset(prefix), 0, len(documents), str(prefix))
