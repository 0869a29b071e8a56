"""What is concluded from the answers of processes that hang."""

from phalanx.runtime.flight_recorder import Operation, ProcessState
from phalanx.runtime.hang_report import diagnose

TIMEOUT = 60.0
WAITS, WORKS = "torch/distributed/distributed_c10d.py:1 all_reduce", "phalanx/data/source.py:1 sample"


def _operation(group: str, ranks: list[int], number: int, what: str = "all_reduce", age: float = 61.0) -> Operation:
    return Operation(group=group, axis=group, ranks=ranks, number=number, what=what, age=age)


def _answer(begun: dict[str, int], *pending: Operation, at: str = WAITS, still: float = 61.0) -> ProcessState:
    return ProcessState(process="p", still=still, pending=list(pending), begun=begun, stacks={"MainThread": [at]})


def _blamed(report: str) -> list[int]:
    return [number for number in range(8) if f"\n  rank {number} (" in report]


def test_the_first_that_is_missing_is_named() -> None:
    """A GPU's process begins more collectives while it waits for the first."""
    ahead = [_operation("tp", [0, 1], number, f"gather {number}") for number in (7, 6, 8)]
    report = diagnose({0: _answer({"tp": 8}, *ahead), 1: _answer({"tp": 5}, at=WORKS)}, {}, TIMEOUT)
    assert report.startswith("the run hangs at gather 6 among ranks 0, 1 (tp): rank 0 arrived 61 s ago, rank 1 did not")
    assert "gather 7" not in report and _blamed(report) == [1]


def test_who_waits_for_the_cause_is_no_cause() -> None:
    """2 waits for 3, and 0 for 2."""
    answers = {
        0: _answer({"dp": 4}, _operation("dp", [0, 2], 4)),
        2: _answer({"dp": 3, "tp": 9}, _operation("tp", [2, 3], 9)),
        3: _answer({"tp": 8}, at=WORKS),
    }
    report = diagnose(answers, {}, TIMEOUT)
    assert report.startswith("the run hangs at all_reduce among ranks 2, 3 (tp)")
    assert "and at all_reduce among ranks 0, 2 (dp): rank 0 arrived 61 s ago, rank 2 did not" in report
    assert _blamed(report) == [3]


def test_a_circle_blames_all() -> None:
    answers = {
        0: _answer({"a": 2, "b": 1}, _operation("a", [0, 1], 2)),
        1: _answer({"a": 1, "b": 2}, _operation("b", [0, 1], 2)),
    }
    assert _blamed(diagnose(answers, {}, TIMEOUT)) == [0, 1]


def test_the_silent_are_named() -> None:
    report = diagnose({0: _answer({"tp": 2}, _operation("tp", [0, 1], 2))}, {1: "process 7 on node"}, TIMEOUT)
    assert "rank 0 arrived 61 s ago, rank 1 did not" in report
    assert "rank 1 (process 7 on node) does not answer" in report and _blamed(report) == [1]


def test_messages_are_told_by_stacks() -> None:
    message = _operation("pp", [0, 1], 0, "recv 0<-1")
    report = diagnose({0: _answer({"pp": 0}, message), 1: _answer({}, at=WORKS)}, {}, TIMEOUT)
    assert report.startswith("the run hangs at a message of another stage") and _blamed(report) == [1]


def test_no_hang() -> None:
    """One came a moment before another; both are at work for long; one that is late is not waited for."""
    soon = _operation("tp", [0, 1], 2, age=1.0)
    assert not diagnose({0: _answer({"tp": 2}, soon, still=1.0), 1: _answer({"tp": 1}, at=WORKS)}, {}, TIMEOUT)
    assert not diagnose({0: _answer({"tp": 2}, at=WORKS), 1: _answer({"tp": 2}, at=WORKS)}, {}, TIMEOUT)
    assert not diagnose({0: _answer({"tp": 2}, at=WORKS)}, {1: "process 7 on node"}, TIMEOUT)
