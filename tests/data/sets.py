"""Small prepared sets whose every token tells where it lies: the token at place p of the stream is FIRST + p."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from phalanx.data.indexed import IndexedDataset, IndexedWriter
from phalanx.data.source import Documents

FIRST = 1000  # of BERT's vocabulary, ordinary words from here on
VOCAB = 30_522


def numbered(prefix: Path, documents: Sequence[Sequence[int]], eod: int | None = None) -> Documents:
    """A set of `documents`, each the lengths of its sentences; with `eod`, the last token of each document is that."""
    writer = IndexedWriter(prefix, VOCAB)
    place = FIRST
    for sentences in documents:
        for number, length in enumerate(sentences, 1):
            tokens = np.arange(place, place + length)
            if eod is not None and number == len(sentences):
                tokens[-1] = eod
            writer.add(tokens)
            place += length
        writer.end_document()
    writer.close()
    assert place <= VOCAB
    return Documents(IndexedDataset(prefix), 0, len(documents), str(prefix))
