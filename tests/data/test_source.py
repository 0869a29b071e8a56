"""Samples by number: epochs, blends, sets and their splits; and that a start costs nothing."""

import math
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from types import FrameType

import numpy as np
import pytest

from phalanx.config import DataConfig
from phalanx.data.bert import BertSource
from phalanx.data.gpt import GPTSource
from phalanx.data.indexed import HEADER, MAGIC, IndexedDataset
from phalanx.data.source import Blend, Concatenation, Documents, Endless, Sample, open_sets, split_weight
from phalanx.data.tokenize import load_tokenizer
from phalanx.errors import InputError
from tests.data.sets import VOCAB, numbered


class Numbers:
    """A source whose samples say which they are: tokens [name, i, draw]."""

    def __init__(self, length: int, name: int = 0) -> None:
        self.length, self.name = length, name

    def __len__(self) -> int:
        return self.length

    def sample(self, i: int, draw: int) -> Sample:
        assert 0 <= i < self.length
        said = np.array([self.name, i, draw])
        return Sample(said, said, None, None, -1)


def said(sample: Sample) -> list[int]:
    return [int(token) for token in sample.tokens]


def test_every_epoch_has_every_sample_once_in_its_own_order() -> None:
    stream = Endless(Numbers(100), seed=3)
    epochs = [[said(stream[n])[1] for n in range(e * 100, e * 100 + 100)] for e in range(4)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert epochs[0] != list(range(100))
    assert epochs[0] != [said(Endless(Numbers(100), seed=4)[n])[1] for n in range(100)]


def test_a_stream_is_a_pure_function_of_the_number() -> None:
    there = [said(Endless(Numbers(7), 1)[n]) for n in range(50)]
    stream = Endless(Numbers(7), 1)
    assert [said(stream[n]) for n in reversed(range(50))] == there[::-1]
    assert [draw for _, _, draw in there] == list(range(50))


def test_a_blend_gives_every_block_its_shares() -> None:
    parts = [Endless(Numbers(10_000, name), name) for name in range(3)]
    blend = Blend(parts, [0.7, 0.2, 0.1], seed=5)
    for block in range(2):
        names = Counter(said(blend[n])[0] for n in range(block * 4096, (block + 1) * 4096))
        assert names == {0: 2867, 1: 819, 2: 410}  # 0.7, 0.2 and 0.1 of 4096, largest remainders up
    names = Counter(said(blend[n])[0] for n in range(1000))
    assert all(abs(names[k] / 1000 - share) < 0.06 for k, share in enumerate([0.7, 0.2, 0.1]))


def test_a_blend_takes_each_part_in_turn_and_leaves_nothing_out() -> None:
    parts = [Endless(Numbers(1500, name), name) for name in range(2)]
    blend = Blend(parts, [1, 3], seed=6)
    taken = [said(blend[n]) for n in range(3 * 4096)]
    for name, count in ((0, 3 * 1024), (1, 3 * 3072)):
        draws = [draw for part, _, draw in taken if part == name]
        assert sorted(draws) == list(range(count))
    assert [said(blend[n]) for n in (9000, 5, 4096)] == [taken[9000], taken[5], taken[4096]]


def test_a_weight_too_small_to_be_seen_is_an_error() -> None:
    parts = [Endless(Numbers(10), name) for name in range(2)]
    with pytest.raises(InputError, match=r"1e-05.*1/4096"):
        Blend(parts, [1, 1e-5], seed=0)
    assert Blend(parts, [1, 1 / 4000], seed=0).counts == [4095, 1]


def test_sources_one_after_the_other() -> None:
    both = Concatenation([Numbers(3, 0), Numbers(4, 1)])
    assert len(both) == 7
    in_order = [said(both.sample(i, i)) for i in range(7)]
    assert in_order == [[0, 0, 0], [0, 1, 1], [0, 2, 2], [1, 0, 0], [1, 1, 1], [1, 2, 2], [1, 3, 3]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("set", ("set", 1.0)),
        ("a/set@0.7", ("a/set", 0.7)),
        ("set@2", ("set", 2.0)),
        ("me@home/set", ("me@home/set", 1.0)),
        ("me@home/set@3", ("me@home/set", 3.0)),
    ],
)
def test_weights_follow_an_at_sign(name: str, expected: tuple[str, float]) -> None:
    assert split_weight(name) == expected


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf"])
def test_weights_are_above_zero(weight: str) -> None:
    with pytest.raises(InputError, match="must be above 0"):
        split_weight(f"set@{weight}")


@pytest.mark.parametrize(
    ("count", "split", "expected"),
    [
        (100, (0.98, 0.02, 0.0), [98, 2]),
        (100, (90, 5, 5), [90, 5, 5]),
        (10, (0.98, 0.02, 0.0), [9, 1]),
        (3, (0.98, 0.01, 0.01), [1, 1, 1]),
        (10, (0.5, 0.001, 0.499), [5, 1, 4]),
        (5, (0.01, 0.98, 0.01), [1, 3, 1]),
        (7, (1, 0, 0), [7]),
        (7, (0, 0, 1), [0, 0, 7]),
    ],
)
def test_splits_share_out_the_documents(
    tmp_path: Path, count: int, split: tuple[float, ...], expected: list[int]
) -> None:
    numbered(tmp_path / "set", [[3]] * count)
    end = 0
    for part, size in enumerate(expected):
        if size:
            [(documents, weight)] = open_sets([f"{tmp_path}/set@2"], split, part)
            assert (documents.first, documents.last, weight) == (end, end + size, 2.0)
        end += size
    assert end == count


def test_a_split_without_documents_is_an_error(tmp_path: Path) -> None:
    numbered(tmp_path / "set", [[3]])
    with pytest.raises(InputError, match=r"none of the 1 document of .*set for training"):
        open_sets([str(tmp_path / "set")], (0.98, 0.02, 0.0), 0)
    with pytest.raises(InputError, match=r"data.split=\[0, 0\]"):
        open_sets([str(tmp_path / "set")], (0, 0), 0)


def test_splits_know_their_sequences_and_tokens(tmp_path: Path) -> None:
    whole = numbered(tmp_path / "set", [[2, 3], [4], [1, 1, 1], [5]])
    part = whole._replace(first=1, last=3)
    assert (whole.sequences, whole.tokens) == ((0, 7), (0, 17))
    assert (part.sequences, part.tokens) == ((2, 6), (5, 12))


def sparse_set(prefix: Path, documents: int, sentences: int, length: int) -> None:
    """A set of documents × sentences × length tokens, all 0, whose .bin takes no room on the disk."""
    count = documents * sentences
    with Path(f"{prefix}.bin").open("wb") as file:
        file.truncate(count * length * 2)
    with Path(f"{prefix}.idx").open("wb") as file:
        file.write(HEADER.pack(MAGIC, 1, 8, count, documents + 1))
        file.write(np.full(count, length, "<i4").tobytes())
        file.write((np.arange(count, dtype="<i8") * length * 2).tobytes())
        file.write((np.arange(documents + 1, dtype="<i8") * sentences).tobytes())


def test_ten_billion_tokens_start_at_once_without_index_files(tmp_path: Path) -> None:
    """In so few calls, and with so little memory, that nothing is done for each of the documents."""
    sparse_set(tmp_path / "set", documents=200_000, sentences=1, length=50_000)
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    tracemalloc.start()
    sys.setprofile(count)
    try:
        [(documents, _)] = open_sets([str(tmp_path / "set")], (0.98, 0.02, 0.0), 0)
        stream = Endless(GPTSource(documents, 1024, VOCAB, None, False), seed=1)
        sample = stream[0]
    finally:
        sys.setprofile(None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert calls < 20_000 and peak < 1 << 20  # the index has 4 MB
    assert len(stream.source) == math.floor((196_000 * 50_000 - 1) / 1024)
    assert len(sample.tokens) == 1024
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.bin", "set.idx"]


def test_a_bert_sample_of_a_large_set_touches_little_of_its_index(tmp_path: Path) -> None:
    sparse_set(tmp_path / "set", documents=20_000, sentences=100, length=25)
    documents = Documents(IndexedDataset(tmp_path / "set"), 0, 20_000, "set")
    source = BertSource(documents, load_tokenizer("bert-uncased"), DataConfig(sequence=128), seed=1)
    tracemalloc.start()
    for n in range(20):
        Endless(source, 1)[n]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20  # the index has 40 MB
