"""BERT samples: traced back to their places in the stream, token by token."""

from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from phalanx.config import DataConfig
from phalanx.data import manifest
from phalanx.data.bert import BertSource, _shares, _trim
from phalanx.data.source import Array, Documents, Endless, Sample
from phalanx.data.tokenize import Tokenizer, load_tokenizer
from phalanx.errors import InputError
from tests.data.sets import FIRST, numbered

SEQUENCE = 64
ROOM = SEQUENCE - 3
CLS, SEP, PAD, MASK = 101, 102, 0, 103


@cache
def tokenizer() -> Tokenizer:
    return load_tokenizer("bert-uncased")


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    """100 documents of 1 to 30 sentences of 3 to 24 tokens."""
    random = np.random.default_rng(0)
    lengths = [random.integers(3, 25, random.integers(1, 31)).tolist() for _ in range(100)]
    return numbered(tmp_path_factory.mktemp("bert") / "set", lengths)


def source(documents: Documents, seed: int = 1, **data: object) -> BertSource:
    return BertSource(documents, tokenizer(), DataConfig.model_validate({"sequence": SEQUENCE, **data}), seed)


def segments(sample: Sample) -> tuple[Array, Array]:
    """Places in the stream of both segments' tokens, what was masked put back; the rest of the sample is checked."""
    tokens = np.where(sample.labels >= 0, sample.labels, sample.tokens)
    used = len(tokens) if sample.document is None else int((sample.document == 0).sum())
    assert sample.segment is not None and tokens[0] == CLS
    assert ((sample.labels == -1) | (sample.labels >= FIRST)).all()  # special tokens are never asked for
    assert (tokens == SEP).nonzero()[0].tolist()[-1] == used - 1
    assert (tokens[used:] == PAD).all() and (sample.segment[used:] == 0).all()
    assert sample.document is None or (sample.document == np.where(np.arange(len(tokens)) < used, 0, -1)).all()
    head = int((tokens == SEP).argmax()) + 1
    assert sample.segment[:used].tolist() == [0] * head + [1] * (used - head)
    return tokens[1 : head - 1] - FIRST, tokens[head : max(head, used - 1)] - FIRST


def document_of(documents: Documents, places: Array) -> int:
    """The one document in which the consecutive `places` lie."""
    assert len(places) and (np.diff(places) == 1).all()
    marks = np.append(documents.dataset.starts[documents.dataset.documents[:-1]] // 2, len(documents.dataset.tokens))
    first, last = np.searchsorted(marks, places[[0, -1]], "right") - 1
    assert first == last
    return int(first)


def test_shapes_and_types(documents: Documents) -> None:
    sample = source(documents).sample(0, 0)
    for array in (sample.tokens, sample.labels, sample.segment):
        assert array is not None and (array.shape, array.dtype) == ((SEQUENCE,), np.int64)
    short = source(documents, short_fraction=0.999).sample(0, 0)
    assert short.document is not None and (short.document.shape, short.document.dtype) == ((SEQUENCE,), np.int32)


def test_half_of_the_second_segments_follow_and_half_come_from_other_documents(documents: Documents) -> None:
    stream = Endless(source(documents), 1)
    asked = []
    others = set()
    for n in range(2000):
        sample = stream[n]
        a, b = segments(sample)
        where_a, where_b = document_of(documents, a), document_of(documents, b)
        asked.append(sample.related)
        if sample.related == 0:
            assert where_a == where_b and b[0] > a[-1]
        else:
            assert where_a != where_b
            others.add(where_b)
    assert abs(np.mean(asked) - 0.5) < 0.04  # 3.6 standard deviations
    assert len(others) > 90


def test_half_of_the_sentence_orders_are_swapped(documents: Documents) -> None:
    stream = Endless(source(documents, pairs="sop"), 1)
    starts = set((documents.dataset.starts // 2).tolist())
    single = set(np.flatnonzero(np.diff(documents.dataset.documents) == 1).tolist())
    asked = []
    for n in range(2000):
        sample = stream[n]
        a, b = segments(sample)
        assert document_of(documents, a) == document_of(documents, b)
        first, second = (a, b) if sample.related == 0 else (b, a)
        assert second[0] > first[-1]
        if second[0] == first[-1] + 1:  # nothing is cut between them
            assert second[0] in starts or document_of(documents, a) in single
        asked.append(sample.related)
    assert abs(np.mean(asked) - 0.5) < 0.04


def test_without_pairs_there_is_one_segment_and_no_question(documents: Documents) -> None:
    stream = Endless(source(documents, pairs="none"), 1)
    starts = set((documents.dataset.starts // 2).tolist())
    for n in range(500):
        sample = stream[n]
        a, b = segments(sample)
        document_of(documents, a)
        assert len(b) == 0 and sample.related == -1 and len(a) <= SEQUENCE - 2
        assert int(a[0]) in starts  # a sentence's first token


def test_a_tenth_of_the_samples_are_short(tmp_path: Path) -> None:
    documents = numbered(tmp_path / "set", [[10] * 500, [10] * 500])  # nowhere short of text
    stream = Endless(source(documents), 1)
    lengths = np.array([sum(map(len, segments(stream[n]))) for n in range(3000)])
    short = lengths[lengths < ROOM]
    assert abs(len(short) / 3000 - 0.1 * 59 / 60) < 0.02  # 3.6 standard deviations
    assert 2 <= short.min() <= 6 and short.max() >= ROOM - 5
    assert abs(short.mean() - 31) < 4
    never = Endless(source(documents, short_fraction=0), 1)
    assert sum(never[n].document is not None for n in range(500)) < 20  # at the ends of documents only


def test_samples_are_pure_and_fresh_in_every_epoch(documents: Documents) -> None:
    one, two = source(documents), source(documents)
    for i in (0, 5, len(one) - 1):
        for name, array in one.sample(i, 7)._asdict().items():
            np.testing.assert_equal(array, getattr(two.sample(i, 7), name), name)
        assert not np.array_equal(one.sample(i, 7).labels, one.sample(i, 7 + len(one)).labels)
        assert not np.array_equal(one.sample(i, 7).labels, source(documents, seed=2).sample(i, 7).labels)


def test_masks_of_one_draw_differ_between_samples(tmp_path: Path) -> None:
    """Two sets of a blend reach equal draws at about the same time."""
    whole = source(numbered(tmp_path / "set", [[10] * 500]), pairs="none", short_fraction=0)
    patterns = {tuple((whole.sample(i, 7).labels >= 0).tolist()) for i in range(20)}
    assert len(patterns) == 20


@pytest.mark.parametrize("pairs", ["nsp", "sop", "none"])
def test_a_few_epochs_see_all_of_the_text(documents: Documents, pairs: str) -> None:
    stream = Endless(source(documents, pairs=pairs), 1)
    seen: set[int] = set()
    for n in range(8 * len(stream.source)):
        for places in segments(stream[n]):
            seen.update(places.tolist())
    assert len(seen) > 0.98 * len(documents.dataset.tokens)


def test_a_split_keeps_to_its_documents(documents: Documents) -> None:
    part = documents._replace(first=10, last=20)
    stream = Endless(source(part), 1)
    for n in range(600):
        for places in segments(stream[n]):
            assert 10 <= document_of(documents, places) < 20


@pytest.mark.parametrize("pairs", ["nsp", "sop", "none"])
@pytest.mark.parametrize(
    "lengths",
    [
        [[1500], [7, 3]],  # a sentence far longer than a sample
        [[3, 1500], [1500, 3]],
        [[3, 1500, 3, 900, 2], [2]],
        [[1], [1], [1, 1]],
        [[1] * 200, [4]],
        [[2, 1], [300]],
    ],
)
def test_documents_of_any_shape_work(tmp_path: Path, lengths: list[list[int]], pairs: str) -> None:
    documents = numbered(tmp_path / "set", lengths)
    stream = Endless(source(documents, pairs=pairs), 1)
    seen: set[int] = set()
    for n in range(max(300, 8 * len(stream.source))):
        a, b = segments(stream[n])
        assert len(a) + len(b) <= (SEQUENCE - 2 if pairs == "none" else ROOM)
        where = [document_of(documents, places) for places in (a, b) if len(places)]
        assert len(where) == (1 if pairs == "none" else 2)
        if pairs == "nsp":
            assert (where[0] != where[1]) == (stream[n].related == 1)
        seen.update(a.tolist(), b.tolist())
    assert len(seen) > 0.98 * len(documents.dataset.tokens)


def test_a_single_document_still_asks_both_questions(tmp_path: Path) -> None:
    stream = Endless(source(numbered(tmp_path / "set", [[9] * 60])), 1)
    assert 60 < sum(stream[n].related for n in range(200)) < 140


def test_pairs_too_long_lose_tokens_as_in_googles_code() -> None:
    """There one token at a time goes, from the longer segment, the second on a tie."""
    for a, b, room in product(range(1, 30), range(1, 30), range(2, 25)):
        left, right = a, b
        while left + right > room:
            left, right = (left - 1, right) if left > right else (left, right - 1)
        assert _shares(a, b, room) == (left, right)


def test_each_lost_token_is_the_first_or_the_last_with_equal_chance() -> None:
    cut = [_trim(np.arange(100), 40, key) for key in range(500)]
    assert all(np.array_equal(kept, np.arange(kept[0], kept[0] + 40)) for kept in cut)
    fronts = [int(kept[0]) for kept in cut]
    assert abs(np.mean(fronts) - 30) < 0.7 and abs(np.std(fronts) - np.sqrt(60) / 2) < 0.5
    assert _trim(np.arange(40), 40, 0).tolist() == list(range(40))


def single_sentences(tmp_path: Path, sentences: bool) -> Documents:
    documents = numbered(tmp_path / "set", [[20]] * 30)
    about = manifest.Manifest(
        sources=(), document="line", key="text", sentences=sentences, append_eod=False, strict=False,
        tokenizer_sha256="", tokenizer="bert-uncased", vocab=30_522, eod=None, tokens=600, sequences=30, documents=30,
        text_bytes=0, malformed=0, malformed_first=(), sha256={},
    )  # fmt: skip
    about.write(tmp_path / "set")
    return documents


def test_pairs_need_sentences(tmp_path: Path) -> None:
    documents = single_sentences(tmp_path, sentences=False)
    with pytest.raises(InputError, match=r"set is not split into sentences.*data.pairs=nsp.*--sentences"):
        source(documents)
    assert segments(source(documents, pairs="none").sample(0, 0))[0].tolist() == list(range(20))


def test_single_sentences_are_sentences_if_the_manifest_says_so(tmp_path: Path) -> None:
    a, b = segments(source(single_sentences(tmp_path, sentences=True), short_fraction=0).sample(0, 0))
    assert len(a) and len(b)


def test_what_cannot_make_samples_is_an_error(documents: Documents) -> None:
    with pytest.raises(InputError, match=r"tokenizer has no \[CLS\] token"):
        BertSource(documents, load_tokenizer("gpt2"), DataConfig(sequence=SEQUENCE), 1)
    with pytest.raises(InputError, match=r"data.sequence=4 leaves no room"):
        source(documents, sequence=4)
