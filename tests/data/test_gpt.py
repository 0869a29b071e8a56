"""GPT samples: slices of the stream that an epoch covers once, and documents for attention."""

from pathlib import Path

import numpy as np
import pytest

from phalanx.data.gpt import GPTSource
from phalanx.data.source import Endless
from phalanx.errors import InputError
from tests.data.sets import FIRST, VOCAB, numbered


def test_samples_are_slices_of_the_stream(tmp_path: Path) -> None:
    source = GPTSource(numbered(tmp_path / "set", [[40], [3, 20], [38]]), 10, VOCAB, None, False)
    assert len(source) == 10  # 101 tokens: the last is a label only
    for i in range(10):
        sample = source.sample(i, i)
        assert sample.tokens.tolist() == list(range(FIRST + 10 * i, FIRST + 10 * i + 10))
        assert sample.labels.tolist() == list(range(FIRST + 10 * i + 1, FIRST + 10 * i + 11))
        assert (sample.tokens.dtype, sample.labels.dtype) == (np.int64, np.int64)
        assert (sample.segment, sample.document, sample.related) == (None, None, -1)


@pytest.mark.parametrize("tokens", [101, 105, 110, 111, 11])
def test_an_epoch_predicts_every_token_once(tmp_path: Path, tokens: int) -> None:
    source = GPTSource(numbered(tmp_path / "set", [[tokens]]), 10, VOCAB, None, False)
    stream = Endless(source, seed=1)
    first_of_epochs = set()
    for epoch in range(5):
        samples = [stream[epoch * len(source) + n] for n in range(len(source))]
        labels = np.concatenate([sample.labels for sample in samples])
        assert len(np.unique(labels)) == len(labels) == (tokens - 1) // 10 * 10
        for sample in samples:
            after = np.where(
                sample.tokens == FIRST + tokens - 1, FIRST, sample.tokens + 1
            )  # the first follows the last
            assert np.array_equal(sample.labels, after)
        first_of_epochs.add(min(int(sample.tokens[0]) % 10 for sample in samples))
    assert len(first_of_epochs) > 2  # later epochs cut elsewhere


def test_a_split_keeps_to_its_documents(tmp_path: Path) -> None:
    documents = numbered(tmp_path / "set", [[50], [60], [70]])._replace(first=1, last=2)
    stream = Endless(GPTSource(documents, 8, VOCAB, None, False), seed=2)
    seen = np.concatenate([np.append(stream[n].tokens, stream[n].labels) for n in range(200)])
    assert set(seen.tolist()) == set(range(FIRST + 50, FIRST + 110))


def test_attention_stops_after_the_end_of_text(tmp_path: Path) -> None:
    documents = numbered(tmp_path / "set", [[4], [3], [6]], eod=5)
    source = GPTSource(documents, 12, VOCAB, 5, True)
    document = source.sample(0, 0).document
    assert document is not None and document.dtype == np.int32
    assert document.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2]


def test_a_split_shorter_than_a_sequence_is_an_error(tmp_path: Path) -> None:
    documents = numbered(tmp_path / "set", [[10], [10]])
    assert len(GPTSource(documents, 19, VOCAB, None, False)) == 1
    with pytest.raises(InputError, match=r"set: documents 0 to 1 hold 20 tokens.*data.sequence=20 \+ 1"):
        GPTSource(documents, 20, VOCAB, None, False)


@pytest.mark.parametrize("eod", [None, 5])
def test_stopping_at_documents_needs_an_end_of_text(tmp_path: Path, eod: int | None) -> None:
    with pytest.raises(InputError, match=r"data.stop_at_documents=true.*--append-eod"):
        GPTSource(numbered(tmp_path / "set", [[20]]), 8, VOCAB, eod, True)
