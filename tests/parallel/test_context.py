"""Who works on which part of a sequence."""

import pytest
import torch

from phalanx.parallel.context import positions
from phalanx.parallel.mesh import Axis
from phalanx.parallel.ring import Ring


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
            rows, keys, causal = ring.meeting(source, len(mine), causal=True)
            here, there = mine[rows], positions(length, ranks, source)[keys]
            pairs = torch.ones(len(here), len(there), dtype=torch.int64)
            if causal:
                pairs = pairs.tril()
            met[here[:, None], there] += pairs
            turns.append(int(pairs.sum()))
        work.append(turns)
    assert met.equal(torch.ones_like(met).tril())
    assert all(turns == work[0] for turns in work)
