"""The stateless generators against honest chance, on fixed seeds.

A statistic of n independent numbers has a known deviation; a test allows 5 of them. An honest generator would be
further off in one case of 1.7 million, and some 400 figures are looked at here. The deviations: of a keep rate
sqrt(p q / n), of a mean 1 / sqrt(n), of a variance sqrt(2 / n), of a correlation 1 / sqrt(n), of a chi-square of n
terms sqrt(2 n).
"""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from phalanx.nn import random
from phalanx.nn.attention import Context, Dropping
from phalanx.nn.dropout import Dropout

SIGMAS = 5.0
SHAPE = 8, 128, 1024  # rows, positions, columns of a mask: 1,048,576 values
SEED, STEP, SITE, DROP = 1234, 7, 5, 0.1


def mask(seed: int = SEED, step: int = STEP, site: int = SITE, drop: float = DROP, first: int = 0) -> Tensor:
    """What a dropout keeps, from row `first` of the batch: 1.0 or 0.0, float64 `SHAPE`."""
    rows, positions, _ = SHAPE
    index = torch.arange(first * positions, (first + rows) * positions).view(rows, positions)
    key = torch.full((rows,), random.key(seed, step), dtype=torch.int32)
    ones = torch.ones(1).expand(SHAPE)
    return (Dropout(drop, site)(ones, index, key) != 0).double()


def normals(name: int = 1, seed: int = SEED, std: float = 1.0) -> Tensor:
    """A weight of 1024 × 1024 by the number of its name, float64."""
    return random.normal((1024, 1024), (0, 0), random.key(seed, name), std).double()


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, in its deviations."""
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item() * math.sqrt(a.numel())


def neighbours(x: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Pairs of values some places apart along each dim, and along the last two at once."""
    for dim in range(x.ndim):
        for lag in (1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512):
            if lag < x.shape[dim]:
                size = x.shape[dim] - lag
                yield f"dim {dim}, {lag} apart", x.narrow(dim, 0, size), x.narrow(dim, lag, size)
    yield "diagonal", x[..., 1:, 1:], x[..., :-1, :-1]
    yield "other diagonal", x[..., 1:, :-1], x[..., :-1, 1:]


def spread(x: Tensor, mean: float, variance: float, dim: int) -> float:
    """How far the means along all dims but one are from each other, in deviations: too far or too near."""
    means = x.movedim(dim, 0).flatten(1).mean(1)
    terms = means.numel()
    square = (means - mean).square().sum().item() * (x.numel() / terms) / variance
    return (square - terms) / math.sqrt(2 * terms)


@pytest.mark.parametrize("drop", [0.01, 0.1, 0.5, 0.9])
def test_keep_rate(drop: float) -> None:
    for kept in mask(drop=drop), mask(drop=drop, step=STEP + 1), mask(drop=drop, first=512):
        variance = drop * (1 - drop)
        assert abs(kept.mean().item() - (1 - drop)) < SIGMAS * math.sqrt(variance / kept.numel())
        for dim in (1, 2):  # a dim of 8 rows has no normal chi-square; its rows are seen as neighbours
            assert abs(spread(kept, 1 - drop, variance, dim)) < SIGMAS, "no position or column is favoured"


@pytest.mark.parametrize("drop", [0.1, 0.5])
def test_neighbours_in_a_mask_are_strangers(drop: float) -> None:
    for where, a, b in neighbours(mask(drop=drop)):
        assert abs(correlation(a, b)) < SIGMAS, where


@pytest.mark.parametrize("drop", [0.1, 0.5])
def test_masks_of_sites_steps_and_seeds_are_strangers(drop: float) -> None:
    here = mask(drop=drop)
    others = {f"site {site}": mask(site=site, drop=drop) for site in (0, 4, 6, 7, 13, 69, 1029)}
    others |= {f"step {step}": mask(step=step, drop=drop) for step in (0, 6, 8, 9, 15, 263, 65543)}
    others |= {f"seed {seed}": mask(seed=seed, drop=drop) for seed in (0, 1233, 1235, 1236, 1266, 1234 << 32)}
    others |= {f"row {first}": mask(first=first, drop=drop) for first in (8, 64, 4096)}
    for what, other in others.items():
        assert abs(correlation(here, other)) < SIGMAS, what
        assert abs(correlation(here[..., 1:], other[..., :-1])) < SIGMAS, f"{what}, a column on"


def test_masks_of_attention() -> None:
    """Probabilities are kept at the rate, and heads are strangers."""
    drop, heads, seq = 0.1, 4, 128
    index = torch.arange(8 * seq).view(8, seq)
    context = Context(index, torch.full((8,), random.key(SEED, STEP), dtype=torch.int32), None, False)
    nothing, identity = torch.zeros(8, heads, seq, 16), torch.eye(seq).expand(8, heads, seq, seq)
    kept = (Dropping(drop, SITE)(nothing, nothing, identity, context) != 0).double()  # even scores: 1 / seq or nothing
    deviation = math.sqrt(drop * (1 - drop) / kept.numel())
    assert abs(kept.mean().item() - (1 - drop)) < SIGMAS * deviation
    for where, a, b in neighbours(kept):
        assert abs(correlation(a, b)) < SIGMAS, where


@pytest.mark.parametrize("what", ["coins", "coins of the next step", "normals"])
def test_all_rows_and_all_columns_are_strangers(what: str) -> None:
    """Correlations of all pairs among 1024, half a million of them: their squares' sum, and the largest.

    Squares of normals' correlations are themselves correlated where a row is in both pairs, so that their sum has the
    deviation sqrt(6 n), coins' sqrt(2 n). As rare as 5 deviations of one are 7.1 of one of so many.
    """
    x = normals() if what == "normals" else 2 * mask(drop=0.5, step=STEP + (what != "coins")).flatten(0, 1) - 1
    for lines in x, x.T:
        correlations = (lines @ lines.T / 32)[*torch.triu_indices(1024, 1024, 1)]
        deviation = math.sqrt((6 if what == "normals" else 2) * len(correlations))
        assert abs(correlations.square().sum().item() - len(correlations)) < SIGMAS * deviation
        assert correlations.abs().max().item() < 7.1


def test_bits_are_fair() -> None:
    """Each of the 32, and each pair of them, over a million words."""
    rows = torch.arange(1024)[None]
    words = random.bits(
        random.rows(rows, torch.tensor([random.key(SEED)], dtype=torch.int32), torch.tensor(SITE)), 1024
    )
    signs = torch.stack([((words.flatten() >> place) & 1).double() * 2 - 1 for place in range(32)])
    n = signs.shape[1]
    assert signs.mean(1).abs().max().item() < SIGMAS / math.sqrt(n)
    pairs = (signs @ signs.T / n).fill_diagonal_(0)
    assert pairs.abs().max().item() < SIGMAS / math.sqrt(n)


def test_moments_of_normals() -> None:
    for x in (normals(), normals(2), normals(seed=SEED + 1)):
        n = x.numel()
        assert abs(x.mean().item()) < SIGMAS / math.sqrt(n)
        assert abs(x.var().item() - 1) < SIGMAS * math.sqrt(2 / n)
        assert abs((x**3).mean().item()) < SIGMAS * math.sqrt(15 / n)
        assert abs((x**4).mean().item() - 3) < SIGMAS * math.sqrt(96 / n)
        for dim in (0, 1):
            assert abs(spread(x, 0, 1, dim)) < SIGMAS, "no row or column is favoured"
    assert normals(std=0.02).std().item() == pytest.approx(0.02, rel=SIGMAS / math.sqrt(2 * 2**20))


@pytest.mark.parametrize("key", [random.key(SEED, 1), random.key(SEED, 2), 0, -1])  # 0 is the mixer's fixed point
def test_normality_by_kolmogorov_and_smirnov(key: int) -> None:
    """sqrt(n) D of n = 2^20 values, D the largest gap between their steps and the normal distribution.

    Honest values are above x in 2 exp(-2 x²) of all cases, below x in sqrt(2 π) / x exp(-π² / 8 x²): of 5 deviations
    are 2.74, and 0.27, where numbers are too even to be random.
    """
    x = random.normal((1024, 1024), (0, 0), key, 1.0).double().flatten().sort().values
    n = x.numel()
    normal = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    gap = torch.maximum((normal - steps[:-1]).max(), (steps[1:] - normal).max()).item()
    assert 0.27 < math.sqrt(n) * gap < 2.74
    assert 4.2 < x.abs().max().item() < 5.77  # the largest there is: 24 bits have no smaller chance than 2^-24


def test_neighbours_among_normals_are_strangers() -> None:
    x = normals()
    pairs = [
        *neighbours(x),
        ("transposed", x, x.t()),
        ("next name", x, normals(2)),
        ("next seed", x, normals(seed=1235)),
    ]
    for where, a, b in pairs:
        assert abs(correlation(a, b)) < SIGMAS, where
        assert abs(correlation(a**2, b**2)) < SIGMAS, f"sizes, {where}"
