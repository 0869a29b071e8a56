"""Masks: how many, where, and what stands in their place."""

from functools import cache

import numpy as np
import pytest

from phalanx.data.mask import Masker
from phalanx.data.tokenize import Tokenizer, load_tokenizer

CLS, SEP, PAD, MASK = 101, 102, 0, 103


@cache
def tokenizer() -> Tokenizer:
    return load_tokenizer("bert-uncased")


def ordinary(count: int, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.random.default_rng(seed).integers(1000, 30_000, count)


@pytest.mark.parametrize("whole_word", [False, True])
def test_a_fraction_is_chosen_and_replaced_in_three_ways(whole_word: bool) -> None:
    masker = Masker(tokenizer(), 0.15, whole_word)
    tokens = ordinary(2000)
    places = np.arange(1, 1999)
    kinds, chosen = np.zeros(3, int), np.zeros(2000, int)
    for key in range(100):
        masked, labels = masker(tokens, places, key)
        hidden = labels >= 0
        assert hidden.sum() == 300  # round(0.15 × 1998)
        assert np.array_equal(labels[hidden], tokens[hidden]) and (labels[~hidden] == -1).all()
        assert np.array_equal(masked[~hidden], tokens[~hidden])
        kept = masked[hidden] == tokens[hidden]
        kinds += [(masked[hidden] == MASK).sum(), ((masked[hidden] != MASK) & ~kept).sum(), kept.sum()]
        chosen += hidden
    assert np.abs(kinds / 30_000 - [0.8, 0.1, 0.1]).max() < 0.01
    assert (chosen[[0, -1]] == 0).all() and chosen[1:-1].min() > 0  # every place in its turn, no other ever


def test_random_replacements_are_spread_over_ordinary_tokens() -> None:
    masker = Masker(tokenizer(), 0.5, False)
    tokens = np.full(4000, 2000)
    drawn = []
    for key in range(100):
        masked, _ = masker(tokens, np.arange(4000), key)
        drawn.append(masked[(masked != MASK) & (masked != 2000)])
    all_drawn = np.concatenate(drawn)
    assert not {PAD, 100, CLS, SEP, MASK} & set(all_drawn.tolist())
    bins = np.bincount(all_drawn * 100 // 30_522, minlength=100)
    expected = len(all_drawn) / 100
    assert ((bins - expected) ** 2 / expected).sum() < 99 + 5 * np.sqrt(198)


@pytest.mark.parametrize(("length", "count"), [(1, 1), (2, 1), (3, 1), (10, 2), (20, 3), (509, 76)])
def test_at_least_one_is_chosen(length: int, count: int) -> None:
    tokens = np.array([CLS, *ordinary(length), SEP])
    _, labels = Masker(tokenizer(), 0.15, False)(tokens, np.arange(1, length + 1), 7)
    assert (labels >= 0).sum() == count


def test_whole_words_are_masked_whole() -> None:
    starts = tokenizer().starts_word
    begin, go_on = np.flatnonzero(starts)[2000:], np.flatnonzero(~starts)
    random = np.random.default_rng(3)
    masker = Masker(tokenizer(), 0.15, True)
    counts = []
    for key in range(200):
        a, b = (np.where(random.random(60) < 0.6, random.choice(begin, 60), random.choice(go_on, 60)) for _ in range(2))
        tokens = np.array([CLS, *a, SEP, *b, SEP])
        places = np.r_[1:61, 62:122]
        _, labels = masker(tokens, places, key)
        hidden = labels >= 0
        counts.append(int(hidden.sum()))
        assert not hidden[[0, 61, 122]].any()
        for place in places[1:]:
            if not starts[tokens[place]] and place != 62:  # it belongs to the word of the piece before
                assert hidden[place] == hidden[place - 1]
    assert max(counts) <= 18 and np.mean(counts) > 17.5  # round(0.15 × 120), filled up


def test_one_word_longer_than_the_fraction_is_masked_all_the_same() -> None:
    go_on = int(np.flatnonzero(~tokenizer().starts_word)[0])
    tokens = np.array([CLS, 2000, go_on, go_on, go_on, SEP])
    _, labels = Masker(tokenizer(), 0.15, True)(tokens, np.arange(1, 5), 1)
    assert (labels >= 0).tolist() == [False, True, True, True, True, False]


def test_the_input_is_not_changed_and_the_key_decides() -> None:
    tokens = ordinary(100)
    before = tokens.copy()
    masker = Masker(tokenizer(), 0.15, False)
    one, two, three = (masker(tokens, np.arange(100), key) for key in (1, 1, 2))
    assert np.array_equal(tokens, before)
    assert np.array_equal(one, two) and not np.array_equal(one, three)
