"""The pool itself: a rank that fails ends the case at once, and a lost connection is tried a second time."""

import os
from pathlib import Path

import pytest
import torch.distributed as dist

from tests.faults.launched import wait_until
from tests.layouts import pool as pools
from tests.layouts.pool import UNCONNECTED, Pool


def _one_fails() -> None:
    if dist.get_rank() == 1:
        raise RuntimeError("a fault of the case")
    dist.barrier()


def _connects_at_the_second_time(marks: Path) -> int:
    mark = marks / str(dist.get_rank())
    if not mark.exists():
        mark.touch()
        raise RuntimeError(UNCONNECTED)
    return dist.get_rank()


def test_a_failed_rank_is_named_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "GRACE", 0.5)
    with Pool() as pool, pytest.raises(AssertionError, match=r"rank 1: (?s:.*)a fault of the case"):
        pool.run(2, _one_fails)


def test_a_lost_connection_is_tried_once_more(tmp_path: Path) -> None:
    with Pool() as pool, pytest.warns(UserWarning, match="once more"):
        assert pool.run(2, _connects_at_the_second_time, tmp_path) == [0, 1]


def test_ranks_rest_between_cases() -> None:
    """They keep their process, and take nothing of the processor."""
    with Pool() as pool:
        first = pool.run(2, os.getpid)
        wait_until(lambda: all(_state(rank) == "T" for rank in first))
        assert pool.run(2, os.getpid) == first


def _state(process: int) -> str:
    """What the kernel says that it does; T: it is stopped."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
