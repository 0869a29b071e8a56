"""Whether a run is slow because of other processes: judged by numbers, and told once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from phalanx import processor
from phalanx.train.contention import SECONDS, Contention, CoreWait, advice


class Machine:
    """A clock, and what a thread has waited for a core, moved by hand."""

    def __init__(self) -> None:
        self.now = self.waited = 100.0

    def passes(self, seconds: float, share: float) -> None:
        self.now += seconds
        self.waited += seconds * share

    @property
    def reads(self) -> tuple[Callable[[], float], Callable[[], float]]:
        return lambda: self.now, lambda: self.waited


@pytest.mark.parametrize(
    ("waited", "speed", "threads", "told"),
    [
        (0.85, 0.008, 2, "OMP_NUM_THREADS=1"),  # two threads, where others want both cores
        (0.40, 0.05, 8, "OMP_NUM_THREADS=1"),
        (0.60, 0.05, 1, "when those end"),  # nothing to be done but wait
        (0.51, 0.14, 1, ""),  # half a core, well used
        (0.05, 0.01, 2, ""),  # slow by itself: small products, a slow disk
        (0.00, 0.00, 2, ""),
        (0.85, 0.30, 2, ""),
    ],
)
def test_the_judgement(waited: float, speed: float, threads: int, told: str) -> None:
    said = advice(waited, speed, threads)
    assert told in said and bool(said) == bool(told)
    assert not said or f"{waited:.0%}" in said


def test_it_is_said_once_and_not_before_a_while() -> None:
    machine = Machine()
    crowd = Contention(2, *machine.reads)
    machine.passes(60, 0.9)  # before the first step: compilation, say
    assert crowd.step(0.01) == ""
    machine.passes(SECONDS / 2, 0.9)
    assert crowd.step(0.01) == ""
    machine.passes(SECONDS, 0.0)
    assert crowd.step(0.01) == ""  # 30 % of all that time
    machine.passes(SECONDS, 0.8)
    assert "80%" in crowd.step(0.01)  # of the time since it was last judged
    machine.passes(SECONDS, 0.9)
    assert crowd.step(0.01) == ""


def test_a_crowd_that_comes_late_is_noticed() -> None:
    machine = Machine()
    crowd = Contention(2, *machine.reads)
    for _ in range(100):
        assert crowd.step(0.3) == ""
        machine.passes(SECONDS, 0.0)
    machine.passes(SECONDS, 0.9)
    crowd.step(0.3)
    machine.passes(SECONDS, 0.9)
    assert "other processes" in crowd.step(0.01)


def test_what_was_waited_in_a_stretch_of_time() -> None:
    machine = Machine()
    waiting = CoreWait(*machine.reads)
    assert waiting.share() == 0
    machine.passes(10, 0.25)
    assert waiting.share() == pytest.approx(0.25)


def test_what_the_kernel_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nanoseconds of running and of waiting, and how often; nothing is known where the kernel does not count."""
    assert processor.waited() >= 0
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "7000000000 2500000000 31\n")
    assert processor.waited() == 2.5

    def absent(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", absent)
    assert processor.waited() == 0
