"""Who works on which part of a sequence."""

import pytest
import torch

from phalanx.parallel import ring
from phalanx.parallel.context_parallel import positions
from phalanx.parallel.mesh import Axis
from phalanx.parallel.ring import Meeting, Ring


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


@pytest.mark.parametrize("causal", [True, False])
def test_the_formula_agrees_with_the_kernel(monkeypatch: pytest.MonkeyPatch, causal: bool) -> None:
    """What serves where torch has no kernel: other devices' fp32, documents inside a sequence."""
    torch.manual_seed(1)
    q, k, v, grad = torch.randn(4, 2, 3, 16, 8)
    meeting = Meeting(slice(None), slice(None), k, v, None, causal)
    out, lse = ring._attend(q, meeting)
    grads = ring._attend_backward(grad, q, out, lse, meeting)
    assert meeting.fused
    monkeypatch.setattr(Meeting, "fused", False)
    plain, norm = ring._attend(q, meeting)
    torch.testing.assert_close((plain, norm), (out, lse))
    torch.testing.assert_close(ring._attend_backward(grad, q, out, lse, meeting), grads)


def test_queries_that_may_see_nothing_there_take_nothing_from_there() -> None:
    q, k, v = torch.randn(3, 1, 1, 4, 8)
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    mask[:, :, 2] = False
    out, lse = ring._attend(q, Meeting(slice(None), slice(None), k, v, mask, causal=False))
    assert out[0, 0, 2].eq(0).all()
    assert lse[0, 0].isinf().tolist() == [False, False, True, False]
