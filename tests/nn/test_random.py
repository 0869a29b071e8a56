"""Stateless random numbers: that they are functions of coordinates, so that a slice is a slice of the whole."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from phalanx.nn import random

SITE = torch.tensor(5, dtype=torch.int32)


def key_of(value: int, rows: int = 1) -> Tensor:
    return torch.full((rows,), value, dtype=torch.int32)


def test_keys_differ() -> None:
    keys = {random.key(seed, step) for seed in range(300) for step in range(300)}
    assert len(keys) > 89_990  # two of 90,000 words of 32 bits are equal once on average
    assert random.key(1, 2) != random.key(2, 1)
    assert random.key(1) != random.key(1 + (1 << 32))
    assert all(-(2**31) <= k < 2**31 for k in keys)


def test_mix_is_a_bijection_that_avalanches() -> None:
    in_a_row = torch.arange(-(1 << 17), 1 << 17, dtype=torch.int32)
    assert random.mix(in_a_row).unique().numel() == in_a_row.numel()
    x = torch.from_numpy(np.random.default_rng(0).integers(-(1 << 31), 1 << 31, 1 << 16, dtype=np.int32))
    for bit in range(32):
        changed = (random.mix(x) ^ random.mix(x ^ random.signed(1 << bit))).numpy().view(np.uint32)
        flips = [((changed >> place) & 1).mean() for place in range(32)]
        assert min(flips) > 0.48 and max(flips) < 0.52


def test_sites_and_steps_share_no_rows() -> None:
    """Else the mask of one site would be that of another, moved to other positions."""
    index = torch.arange(1024)[None]
    rows = [
        random.rows(index, key_of(random.key(1234, step)), torch.tensor(site, dtype=torch.int32))
        for step in range(4)
        for site in range(40)
    ]
    count = 4 * 40 * 1024
    assert torch.cat(rows).unique().numel() > count - 20  # 3 of so many random words are equal on average


def test_masks_of_a_slice_are_a_slice_of_the_masks() -> None:
    index = torch.arange(64).view(4, 16)
    whole = random.rows(index, key_of(9, 4), SITE)
    assert torch.equal(random.rows(index[1:3, 5:9], key_of(9, 2), SITE), whole[1:3, 5:9])
    assert torch.equal(random.bits(whole, 6, first=3), random.bits(whole, 9)[..., 3:])


def test_normals_of_any_key_are_normal() -> None:
    for key in (0, 1, -1):  # 0 is the mixer's fixed point
        x = random.normal((512, 512), (0, 0), key, 1.0)
        assert abs(x.mean().item()) < 0.01 and abs(x.std().item() - 1) < 0.01


def test_normals_of_near_keys_share_no_rows() -> None:
    """Else one weight could be another with its rows moved; among hundreds of 32-bit keys near ones occur."""
    weights = [random.normal((256, 8), (0, 0), key, 1.0) for key in (random.key(1, 2), random.key(1, 2) ^ 136)]
    assert len(torch.cat(weights).unique(dim=0)) == 512


@pytest.mark.parametrize("cut", [0.0, 3.0])
@pytest.mark.parametrize(("shape", "offset"), [((3, 7), (0, 0)), ((5, 4), (17, 9)), ((4100, 3), (4000, 20))])
def test_normals_of_a_slice_are_a_slice_of_the_normals(
    shape: tuple[int, int], offset: tuple[int, int], cut: float
) -> None:
    whole = random.normal((8200, 24), (0, 0), 42, 0.02, cut)
    rows, columns = (slice(start, start + size) for start, size in zip(offset, shape, strict=True))
    assert torch.equal(random.normal(shape, offset, 42, 0.02, cut), whole[rows, columns])


@pytest.mark.parametrize("cut", [0.5, 2.0, 3.0])
def test_truncated_normals_are_those_of_torch(cut: float) -> None:
    """By their moments, and by the largest gap of the distributions (Kolmogorov, Smirnov: 1.95 is one in 1,000)."""
    mine = random.normal((1024, 1024), (0, 0), random.key(7, 1), 0.02, cut).flatten()
    assert 0.019 * cut < mine.abs().max() <= 0.02 * cut
    theirs = torch.empty(1 << 20)
    torch.nn.init.trunc_normal_(theirs, 0, 0.02, -0.02 * cut, 0.02 * cut, generator=torch.Generator().manual_seed(1))
    assert abs(mine.mean().item()) < 5 * 0.02 / 1024
    assert mine.std().item() == pytest.approx(theirs.std().item(), rel=5e-3)

    below = torch.searchsorted(theirs.sort().values, mine.sort().values).double() / theirs.numel()
    gap = (below - torch.arange(1 << 20, dtype=torch.float64) / (1 << 20)).abs().max().item()
    assert gap * math.sqrt((1 << 20) / 2) < 1.95


def test_normals_of_a_vector_slice() -> None:
    whole = random.normal((100,), (0,), 42, 0.02)
    assert whole.shape == (100,)
    assert torch.equal(random.normal((30,), (50,), 42, 0.02), whole[50:80])
