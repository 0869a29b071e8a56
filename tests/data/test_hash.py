"""The hash: the same numbers for ever, and numbers that look random."""

import numpy as np
import pytest

from phalanx import mixing
from phalanx.data import hash


def test_numbers_stay_what_they_are() -> None:
    """A change here changes the data order of every run that is under way."""
    assert [mixing.mix(x) for x in (0, 1, 0xDEADBEEF)] == [0, 0x688990C0, 0xE628C683]
    assert [mixing.key(), mixing.key(1234, 0), mixing.key(1 << 40)] == [0x9E3779B9, 0xF5CD4C1F, 0x177C54DC]
    assert hash.words(7, 3) == [1071229915, 1218197195, 260040046]


def test_words_and_arrays_agree() -> None:
    words = np.random.default_rng(0).integers(0, 1 << 32, 1000, dtype=np.uint32)
    assert hash.mix(words).tolist() == [mixing.mix(int(word)) for word in words]
    key = 0xFFFFFFFF  # the largest, so that sums wrap around
    assert hash.uniform(key, 1000).tolist() == [word / 2**32 for word in hash.words(key, 1000)]


def test_every_input_bit_changes_half_of_the_output_bits() -> None:
    words = np.random.default_rng(1).integers(0, 1 << 32, 20_000, dtype=np.uint32)
    for bit in range(32):
        changed = hash.mix(words) ^ hash.mix(words ^ np.uint32(1 << bit))
        rates = [float(((changed >> np.uint32(k)) & np.uint32(1)).mean()) for k in range(32)]
        assert min(rates) > 0.47 and max(rates) < 0.53, bit


def test_no_two_words_mix_to_one() -> None:
    assert len(np.unique(hash.mix(np.arange(1 << 20, dtype=np.uint32)))) == 1 << 20


def test_every_part_of_a_key_counts() -> None:
    parts = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (7 << 32,), (1 << 40,), (1 << 70,), (1, 2, 3), (3, 2, 1)]
    assert len({mixing.key(*p) for p in parts}) == len(parts)


def test_negative_parts_are_a_defect() -> None:
    with pytest.raises(AssertionError):
        mixing.key(1, -1)


def test_uniform_numbers_are_uniform_and_keys_unrelated() -> None:
    many = [hash.uniform(mixing.key(5, k), 50_000) for k in range(8)]
    for numbers in many:
        assert numbers.min() >= 0 and numbers.max() < 1
        bins = np.bincount((numbers * 256).astype(int), minlength=256)
        chi = ((bins - 50_000 / 256) ** 2 / (50_000 / 256)).sum()
        assert abs(chi - 255) < 5 * np.sqrt(2 * 255)
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.02
    between = np.corrcoef(many) - np.eye(8)
    assert np.abs(between).max() < 0.02
