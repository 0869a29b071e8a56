"""The simulated schedules against their closed forms."""

from itertools import accumulate

import pytest

from phalanx.plan.pipeline import order, simulate


@pytest.mark.parametrize("pp", [2, 4, 8])
@pytest.mark.parametrize("count", [8, 16, 40, 64])
def test_1f1b_has_the_bubble_of_the_paper(pp: int, count: int) -> None:
    """(p - 1)/m of the ideal time (arXiv 2104.04473, section 2.2.1), also where the middle is not played."""
    flow = simulate("1f1b", pp, 1, count, (1.0,) * pp, (2.0,) * pp, 0.0)
    assert flow.seconds == pytest.approx(3.0 * count * (1 + (pp - 1) / count))


@pytest.mark.parametrize("chunks", [2, 4])
@pytest.mark.parametrize(("pp", "count"), [(2, 8), (4, 16), (4, 64)])
def test_interleaving_divides_the_bubble(pp: int, chunks: int, count: int) -> None:
    stages = pp * chunks
    flow = simulate("interleaved", pp, chunks, count, (1 / chunks,) * stages, (2 / chunks,) * stages, 0.0)
    assert flow.seconds == pytest.approx(3.0 * count * (1 + (pp - 1) / count / chunks))


def test_zero_bubble_idles_less_than_1f1b() -> None:
    """Where forward, input's and weights' gradients take as long (arXiv 2401.10241) next to nothing is left."""
    pp, count = 4, 32
    plain = simulate("1f1b", pp, 1, count, (2.0,) * pp, (4.0,) * pp, 0.0).seconds
    zero = simulate("zbv", pp, 2, count, (1.0,) * 2 * pp, (2.0,) * 2 * pp, 0.0).seconds
    ideal = 6.0 * count
    assert ideal <= zero < ideal + 0.25 * (plain - ideal)


@pytest.mark.parametrize("rank", range(4))
def test_live_micro_batches(rank: int) -> None:
    changes = [1 if kind == "F" else -1 for kind, _, _ in order("1f1b", 4, 1, 16, rank)]
    assert max(accumulate(changes)) == 4 - rank


@pytest.mark.parametrize(("schedule", "chunks"), [("1f1b", 1), ("interleaved", 2), ("zbv", 2)])
def test_every_operation_is_done_once(schedule: str, chunks: int) -> None:
    pp, count = 4, 12
    done = [operation for rank in range(pp) for operation in order(schedule, pp, chunks, count, rank)]
    kinds = "FBW" if schedule == "zbv" else "FB"
    expected = {(kind, stage, n) for kind in kinds for stage in range(pp * chunks) for n in range(count)}
    assert len(done) == len(expected) and set(done) == expected


def test_uneven_stages_wait_for_the_slowest() -> None:
    even = simulate("1f1b", 4, 1, 64, (1.0,) * 4, (2.0,) * 4, 0.0).seconds
    uneven = simulate("1f1b", 4, 1, 64, (1.0, 1.0, 1.0, 1.5), (2.0, 2.0, 2.0, 3.0), 0.0).seconds
    assert uneven == pytest.approx(1.5 * even, rel=0.05)


def test_sending_takes_time_once_a_hop() -> None:
    still = simulate("1f1b", 2, 1, 2, (1.0,) * 2, (2.0,) * 2, 0.0).seconds
    assert simulate("1f1b", 2, 1, 2, (1.0,) * 2, (2.0,) * 2, 0.25).seconds > still
