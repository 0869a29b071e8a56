"""Labelled examples as samples."""

import numpy as np
import pytest

from phalanx.data.examples import Question
from phalanx.data.labelled import Assembler, ByLength, Encoded, Examples
from phalanx.data.tokenize import load_tokenizer
from phalanx.data.windows import starts, windows

BERT = load_tokenizer("bert-uncased")


def examples(lengths: list[int]) -> Examples:
    return Examples([Encoded(np.full(n, k), n) for k, n in enumerate(lengths)], 64, 0)


@pytest.mark.parametrize("group", [1, 3])
def test_batches_of_one_length(group: int) -> None:
    """Every epoch has each example once at most, all but what fills no batch, and hardly anything is filled up."""
    dice = np.random.default_rng(0)
    lengths = [int(n) for n in dice.integers(1, 65, 1000) for _ in range(group)]
    stream, batch = ByLength(examples(lengths), 7, 8 * group, group), 8 * group
    seen, used, filled = [], 0, 0
    for start in range(0, 2 * 1000 * group, batch):
        samples = [stream[n] for n in range(start, start + batch)]
        numbers = [int(sample.tokens[0]) for sample in samples]
        assert all(numbers[k] == numbers[k - 1] + 1 for k in range(len(numbers)) if k % group)
        seen += numbers
        sizes = [sample.used for sample in samples]
        used, filled = used + sum(sizes), filled + max(sizes) * batch
    first, second = np.split(np.array(seen), 2)
    assert sorted(first) == list(range(1000 * group)) == sorted(second) and not np.array_equal(first, second)
    assert used / filled > 0.95
    assert np.corrcoef(np.array(lengths)[first[::batch]], np.arange(len(first[::batch])))[0, 1] < 0.2


def test_fewer_examples_than_a_batch() -> None:
    stream = ByLength(examples([3, 4, 5]), 1, 8)
    assert sorted(int(stream[n].tokens[0]) for n in range(3)) == [0, 1, 2]


@pytest.mark.parametrize(("a", "b", "kept"), [(3, 4, (3, 4)), (30, 4, (9, 4)), (4, 30, (4, 9)), (30, 30, (7, 6))])
def test_the_longer_of_a_pair_loses_its_end(a: int, b: int, kept: tuple[int, int]) -> None:
    one = Assembler(BERT, 16).join(np.arange(1000, 1000 + a), np.arange(2000, 2000 + b))
    assert ((one.tokens // 1000 == 1).sum(), (one.tokens // 1000 == 2).sum()) == kept
    assert [int(t) for t in one.tokens[[0, kept[0] + 1, -1]]] == [BERT.cls, BERT.sep, BERT.sep]
    assert one.second == kept[0] + 2 and one.tokens[1] == 1000 and len(one.tokens) <= 16


@pytest.mark.parametrize("length", [1, 20, 21, 29, 100])
def test_windows_cover_a_context(length: int) -> None:
    begun = list(starts(length, 20, 8))
    covered = {token for start in begun for token in range(start, min(length, start + 20))}
    assert covered == set(range(length)) and begun[-1] < max(1, length - 12)
    assert all(length - start > 20 - 8 for start in begun[1:])


@pytest.mark.parametrize("stride", [4, 10])
def test_the_answer_is_where_its_label_says(stride: int) -> None:
    """In any script; a window that lacks a part of it says [CLS]."""
    context = (
        "Le café — né à Orléans — fut fondé en 1923 par Zoë Müller; 東京 was its second home, naïve or not, until 1950."
    )
    for answer in ("né à Orléans", "Zoë Müller", "東京", "1950", "Le"):
        asked = Question("q", "Who?", context, ((context.index(answer), answer),))
        found = []
        encoded, parts = windows([asked], Assembler(BERT, 24), stride)
        for one, window in zip(encoded, parts, strict=True):
            assert one.labels is not None
            first, last = np.flatnonzero(one.labels & 1), np.flatnonzero(one.labels & 2)
            assert len(first) == len(last) == 1
            if first[0]:
                begin, end = window.places[first[0] - window.first][0], window.places[last[0] - window.first][1]
                found.append(context[begin:end])
            else:
                assert last[0] == 0
        assert found and set(found) == {answer}
