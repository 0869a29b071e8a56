"""Permutations: bijections of every size, well mixed, unrelated between keys."""

import numpy as np
import pytest

from phalanx.data.order import Permutation

Counts = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


def excess(counts: Counts, expected: float) -> float:
    """Chi-square of counts that should all be `expected`, in standard deviations above its mean."""
    freedom = counts.size - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


def test_orders_stay_what_they_are() -> None:
    """A change here changes the data order of every run that is under way."""
    assert [Permutation(1000, 7)(i) for i in range(6)] == [83, 763, 242, 533, 213, 184]
    assert [Permutation(1 << 40, 7)(i) for i in range(3)] == [976927272105, 352669439915, 1000521919450]


def test_every_size_is_a_bijection() -> None:
    for size in [*range(1, 300), 1023, 1024, 1025, 4095, 4097, 65_535, 65_537, 99_991, 1_000_000]:
        for key in (0, 1, 0xFFFFFFFF):
            images = Permutation(size, key)(np.arange(size))
            assert np.array_equal(np.sort(images), np.arange(size)), (size, key)


@pytest.mark.parametrize("size", [1, 2, 10, 1000, 65_537, (1 << 31) + 11, (1 << 40) - 87, 1 << 40])
def test_one_index_as_in_an_array(size: int) -> None:
    order = Permutation(size, 99)
    indices = np.unique(np.linspace(0, size - 1, 50).astype(np.int64))
    images = [order(int(i)) for i in indices]
    assert images == order(indices).tolist()
    assert all(type(image) is int and 0 <= image < size for image in images)


def test_an_array_given_is_not_changed() -> None:
    indices = np.arange(100)
    Permutation(100, 3)(indices)
    assert np.array_equal(indices, np.arange(100))


@pytest.mark.parametrize("size", [(1 << 33) + 1, 1 << 40])
def test_large_orders_are_spread_and_unrelated_to_the_index(size: int) -> None:
    count = 200_000
    for first in (0, size - count):
        images = Permutation(size, 5)(np.arange(first, first + count))
        assert len(np.unique(images)) == count
        assert excess(np.bincount(images * 256 // size, minlength=256), count / 256) < 5
        assert excess(np.bincount(images % 256, minlength=256), count / 256) < 5
        assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 0.015
        assert abs(np.corrcoef(np.arange(count), images)[0, 1]) < 0.015


@pytest.mark.parametrize("size", [16, 23, 64])
def test_over_all_keys_every_place_is_as_likely(size: int) -> None:
    keys = 4000
    images = np.array([Permutation(size, key)(np.arange(size)) for key in range(keys)])
    for i in range(size):
        assert excess(np.bincount(images[:, i], minlength=size), keys / size) < 6, i
    pairs = images[:, 0] * size + images[:, 1]
    apart = np.bincount(pairs, minlength=size * size)[~np.eye(size, dtype=bool).ravel()]
    assert excess(apart, keys / apart.size) < 6


@pytest.mark.parametrize("size", [2, 3, 5, 7])
def test_a_handful_of_samples_take_every_place(size: int) -> None:
    images = np.array([Permutation(size, key)(np.arange(size)) for key in range(4000)])
    counts = np.array([np.bincount(images[:, i], minlength=size) for i in range(size)])
    assert np.abs(counts / (4000 / size) - 1).max() < 0.2


def test_keys_make_unrelated_orders() -> None:
    size = 10_007
    orders = np.array([Permutation(size, key)(np.arange(size)) for key in range(60)])
    agreements = (orders[:-1] == orders[1:]).sum(1)  # of random orders: 1 on average
    assert 0.6 < agreements.mean() < 1.5 and agreements.max() < 8
    between = np.corrcoef(orders) - np.eye(len(orders))
    assert np.abs(between).max() < 5 / np.sqrt(size)
