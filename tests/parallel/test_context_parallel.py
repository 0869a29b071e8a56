"""Who works on which part of a sequence."""

import pytest
import torch

from phalanx.nn.attention import within
from phalanx.parallel import ring, windows
from phalanx.parallel.context_parallel import positions
from phalanx.parallel.mesh import Axis
from phalanx.parallel.ring import Ring, Tile
from phalanx.parallel.windows import Window


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_every_rank_meets_the_same_number_of_pairs(ranks: int) -> None:
    """In a ring, all that is causal is met once, nothing else, and alike by all ranks in every turn."""
    length = 16 * ranks
    met = torch.zeros(length, length, dtype=torch.int64)
    work = []
    for rank in range(ranks):
        ring = Ring(Axis(ranks, rank), positions)
        mine = positions(length, ranks, rank)
        turns = []
        for turn in range(ranks):
            source = (rank - turn) % ranks
            rows, keys, causal = ring.seen(source, len(mine), causal=True)
            here, there = mine[rows], positions(length, ranks, source)[keys]
            pairs = torch.ones(len(here), len(there), dtype=torch.int64)
            if causal:
                pairs = pairs.tril()
            met[here[:, None], there] += pairs
            turns.append(int(pairs.sum()))
        work.append(turns)
    assert met.equal(torch.ones_like(met).tril())
    assert all(turns == work[0] for turns in work)


@pytest.mark.parametrize(("ranks", "width"), [(2, 1), (2, 3), (3, 16), (4, 9), (4, 17), (4, 40), (8, 5), (8, 200)])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("most", [3, 512])
def test_within_a_window_near_keys_are_met_once(
    monkeypatch: pytest.MonkeyPatch, ranks: int, width: int, causal: bool, most: int
) -> None:
    """Each query meets every key of its window exactly once, itself first; ranks that none reaches are passed over."""
    monkeypatch.setattr(windows, "ROWS", most)
    part, window = 16, Window(width, causal)
    length = part * ranks
    met, first = torch.zeros(length, length, dtype=torch.int64), [True] * length

    for rank in range(ranks):
        mine = positions(length, ranks, rank)
        for step in windows.steps.__wrapped__(ranks, part, window):
            theirs = positions(length, ranks, (rank - step) % ranks)
            for rows, keys in windows.near(rank, (rank - step) % ranks, ranks, part, window):
                seen = within(mine[None, rows], theirs[None, keys], width, causal)[0]
                met[mine[rows][:, None], theirs[keys]] += seen
                for place in mine[rows].tolist():
                    assert not first[place] or place in theirs[keys]
                    first[place] = False

    place = torch.arange(length)[None]
    assert met.equal(within(place, place, width, causal)[0].long())
    if width == 1:
        assert windows.steps.__wrapped__(ranks, part, window) == [0]
    if ranks == 8 and width == 5:
        assert windows.steps.__wrapped__(ranks, part, window) == [0, 1, 7]


@pytest.mark.parametrize("causal", [True, False])
def test_the_formula_agrees_with_the_kernel(monkeypatch: pytest.MonkeyPatch, causal: bool) -> None:
    """What serves where torch has no kernel: other devices' fp32, documents inside a sequence."""
    torch.manual_seed(1)
    q, k, v, grad = torch.randn(4, 2, 3, 16, 8)
    tile = Tile(slice(None), slice(None), k, v, None, causal)
    out, lse = ring._attend(q, tile)
    grads = ring._attend_backward(grad, q, out, lse, tile)
    assert tile.fused
    monkeypatch.setattr(Tile, "fused", False)
    plain, norm = ring._attend(q, tile)
    torch.testing.assert_close((plain, norm), (out, lse))
    torch.testing.assert_close(ring._attend_backward(grad, q, out, lse, tile), grads)


def test_queries_that_may_see_nothing_there_take_nothing_from_there() -> None:
    q, k, v = torch.randn(3, 1, 1, 4, 8)
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    mask[:, :, 2] = False
    out, lse = ring._attend(q, Tile(slice(None), slice(None), k, v, mask, causal=False))
    assert out[0, 0, 2].eq(0).all()
    assert lse[0, 0].isinf().tolist() == [False, False, True, False]
