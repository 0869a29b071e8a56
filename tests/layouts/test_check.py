"""`phalanx check`: both curves side by side, and a verdict that bites, but not because a run is steep."""

import math
import os
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from torch.optim import Optimizer
from typer.testing import CliRunner

from phalanx import cli
from phalanx.errors import InputError
from phalanx.models.family import spec_of
from phalanx.parallel.parameters import Parameters
from phalanx.run.comparison import BOUNDS, FARTHER, Bounds, Comparison, Point, largest
from phalanx.runtime import launch
from phalanx.tasks import check
from phalanx.train.optimizers import Lamb
from tests.faults.ranks import free_port
from tests.train.processes import start
from tests.train.runs import Corpus

CURVE = [Point(5.0 - 0.1 * step, 1.0 + 0.01 * step) for step in range(12)]


def compared(other: list[Point], dtype: str = "fp32", *again: list[Point]) -> Comparison:
    return Comparison(("one process", "tp=2"), (CURVE, other), dtype, dict(enumerate(again, 1)))


def moved(step: int, loss: float = 0.0, norm: float = 0.0) -> list[Point]:
    """The curve with one step's loss and norm changed."""
    point = CURVE[step - 1]
    return [*CURVE[: step - 1], Point(point.loss + loss, point.norm + norm), *CURVE[step:]]


def growing(first: float) -> list[Point]:
    """The curve with a difference that grows fourfold with every step."""
    return [Point(point.loss + first * 4**step, point.norm) for step, point in enumerate(CURVE)]


class Careless(Lamb):
    """LAMB that takes the norms of this rank's parts for those of the wholes."""

    name: str = f"{__name__}:Careless"

    def build(self, parameters: Parameters) -> list[Optimizer]:
        """Return LAMB of parameters that know of no other ranks."""
        return super().build(Parameters(parameters.locals))


def test_fewer_steps_than_asked_for_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "check", lambda *_: compared(CURVE))
    told = CliRunner().invoke(cli.app, ["check", "gpt-tiny", "--steps", "40"])
    assert told.exit_code == 0
    assert told.stdout.endswith("all 12 steps of the run were compared, as train.steps=12, not the 40 of --steps\n")


def _rank(environment: dict[str, str], told: Path, words: list[str]) -> None:
    os.environ.update(environment)
    os.chdir(told.parent)
    sys.argv, sys.stdout = ["phalanx", *words], told.open("w")
    cli.main()


def both_ranks(told: Path, words: list[str]) -> list[int | None]:
    """Exit codes of the two processes that run a command, as torchrun would start them; rank 0 writes into `told`."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    ranks: list[ForkServerProcess] = []
    for rank, out in enumerate((told, Path(os.devnull))):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "1"}
        ranks.append(start(_rank, {**address, **place}, out, words))
    for process in ranks:
        process.join()
    return [process.exitcode for process in ranks]


@pytest.mark.parametrize(
    ("optimizer", "rate", "verdict", "steep"),
    [
        ("lamb", "0.03", "the curves agree", False),
        (f"{__name__}:Careless", "0.03", "the curves do NOT agree", False),
        ("adamw", "0.5", "too steep to tell", True),
        (f"{__name__}:Careless", "2", "the curves do NOT agree", True),
    ],
)
def test_the_command(corpus: Corpus, tmp_path: Path, optimizer: str, rate: str, verdict: str, steep: bool) -> None:
    """A mistake is found at any rate; a rate at which every rounding becomes large is called what it is."""
    right = verdict == "the curves agree"
    words = [*corpus.words("gpt"), "train.steps=12", "model.dropout=0.1", "optim.warmup=0", "layout.tp=2"]
    words += [f"optim.name={optimizer}", f"optim.lr={rate}", "--steps", "10", "--out", "curves.png"]
    told = tmp_path / "told.txt"
    assert both_ranks(told, ["check", "gpt-tiny", *words]) == [0 if right else 1, 0]

    lines = told.read_text().splitlines()
    rows = [line.split() for line in lines if line.split()[0].isdecimal()]
    assert [row[0] for row in rows] == [str(step) for step in range(1, 11)]
    gap = max(abs(float(row[1]) - float(row[2])) for row in rows)
    assert gap < 1e-4 if right else gap > 1e-3
    assert ("differs from itself" in lines[-2]) == (not right), "asked only where it matters"
    assert ("allowed" in lines[1]) == steep
    assert lines[-1].startswith(verdict)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "told.txt"], "and leaves nothing else"


def test_it_starts_its_processes(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the layout names."""
    started: list[tuple[list[str], int]] = []
    monkeypatch.setattr(launch, "launch", lambda words, count, _: started.append((words, count)) or 1)
    words = ["check", "gpt-tiny", *corpus.words("gpt"), "layout.tp=2"]
    monkeypatch.setattr(sys, "argv", ["phalanx", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (started, ended.value.code) == ([(words, 2)], 1)


@pytest.mark.parametrize(
    ("other", "dtype", "agree"),
    [
        (CURVE, "fp32", True),
        (moved(12, loss=9e-5), "fp32", True),
        (moved(12, loss=2e-4), "fp32", False),
        (moved(1, norm=-3e-3), "fp32", False),
        (moved(7, loss=5e-3, norm=0.05), "bf16", True),
        (moved(7, loss=-2e-2), "bf16", False),
        (moved(7, norm=0.2), "fp16", False),
        (moved(3, loss=math.nan), "fp8", False),
        (moved(3, norm=math.inf), "fp8", False),
    ],
)
def test_the_verdict(other: list[Point], dtype: str, agree: bool) -> None:
    comparison = compared(other, dtype)
    assert comparison.agree is agree
    assert list(comparison.lines())[-1].startswith("the curves agree" if agree else "the curves do NOT agree")


AGREE, DIFFER, STEEP = "the curves agree, within 30 times", "the curves do NOT agree", "too steep to tell"


@pytest.mark.parametrize(
    ("other", "again", "verdict"),
    [
        (growing(1e-10), [growing(1e-11), CURVE], AGREE),  # 4.2e-4 at the end, and one process 4.2e-5
        (growing(4e-9), [growing(1e-9), CURVE], STEEP),  # 1.7e-2 at the end, and one process 4e-3
        (growing(400e-9), [growing(1e-9), CURVE], DIFFER),
        (growing(400e-9), [growing(1e-9), growing(-20e-9)], STEEP),  # the farther one counts
        (moved(6, loss=8e-4), [moved(7, loss=1e-4)], AGREE),  # a step earlier
        (moved(5, loss=8e-4), [moved(7, loss=1e-4)], DIFFER),
        (moved(6, loss=2e-3), [moved(7, loss=1e-4)], STEEP),
        (moved(4, loss=1e-3), [growing(1e-9)], DIFFER),  # steep later, not where the difference is
        (moved(12, loss=8e-4), [moved(3, loss=1e-4)], AGREE),  # what parted once may stay apart
        (moved(12, loss=8e-4), [moved(11, norm=1.0)], DIFFER),  # what norms may, losses may not
        (moved(12, norm=0.4), [moved(11, norm=0.02)], AGREE),
        (moved(12, norm=0.4), [moved(11, loss=1.0)], DIFFER),  # nor the other way round
        (moved(1, norm=0.6), [moved(1, norm=0.1)], STEEP),
        (moved(12, loss=math.inf), [moved(12, loss=math.inf)], DIFFER),
        (moved(12, loss=8e-4), [moved(11, loss=math.nan)], DIFFER),
    ],
)
def test_the_verdict_on_a_steep_run(other: list[Point], again: list[list[Point]], verdict: str) -> None:
    comparison = compared(other, "fp32", *again)
    assert (comparison.agree, comparison.undecided) == (verdict == AGREE, verdict == STEEP)
    *_, own, last = comparison.lines()
    assert own.startswith("one process in micro-batches of 1") and f"grows to {FARTHER} times that" in own
    assert own.endswith("not beyond 1e-03 and 5e-01") and last.startswith(verdict)


def test_gradients_that_are_nothing_alike_do_not_agree() -> None:
    """Norms that differ by 150 % of their size at every step, where one process differs from itself by 10 %."""
    apart, own = ([point._replace(norm=point.norm * times) for point in CURVE] for times in (2.5, 1.1))
    comparison = compared(apart, "bf16", own)
    assert comparison.undecided and not comparison.agree
    assert list(comparison.lines())[-1].endswith("lower optim.lr or take fewer --steps")


def test_what_is_allowed_is_told_by_step() -> None:
    comparison = compared(growing(1e-10), "fp32", growing(1e-11))
    assert comparison.allowed[0] == BOUNDS["fp32"]
    assert comparison.explained[-1].loss == pytest.approx(4**11 * FARTHER * 1e-11)
    assert comparison.allowed[-1] == Bounds(pytest.approx(1e-3), BOUNDS["fp32"].norm)
    lines = list(comparison.lines())
    assert lines[1].count("allowed") == 2 and lines[13].split()[4] == "1.0e-03"
    assert max(map(len, lines[:14])) <= 120


@pytest.mark.parametrize(("size", "batch", "others"), [(8, 8, [4, 7]), (2, 8, [1, 3]), (1, 8, [2, 3]), (1, 1, [])])
def test_other_micro_batches(corpus: Corpus, size: int, batch: int, others: list[int]) -> None:
    config = corpus.config("gpt", f"train.batch={batch}", f"layout.micro_batch={size}")
    assert check._other_micro_batches(config) == others


def test_other_micro_batches_of_questions_are_whole_questions(corpus: Corpus) -> None:
    words = ["task=choice", "model.head=choice", "model.classes=3", "train.batch=12", "layout.micro_batch=9"]
    assert check._other_micro_batches(corpus.config("bert", *words)) == [3, 6]


def test_a_step_that_overflows_on_both_is_no_difference() -> None:
    overflowed = [Point(CURVE[0].loss, math.inf), *CURVE[1:]]
    assert Comparison(("", ""), (overflowed, [Point(CURVE[0].loss, math.nan), *CURVE[1:]]), "fp16").agree


def test_the_largest_difference_and_its_step() -> None:
    assert largest([0.1, 0.3, 0.2]) == (0.3, 2)
    assert largest([0.1, 0.3, math.nan, 0.2]).step == 3
    (line,) = (line for line in compared(moved(4, loss=0.25)).lines() if line.startswith("largest"))
    assert "loss 2.5e-01 at step 4" in line and "fp32 allows 1e-04 and 1e-03" in line


@pytest.mark.parametrize(("other", "code"), [(CURVE, 0), (moved(5, loss=0.1), 1)])
def test_exit_codes(monkeypatch: pytest.MonkeyPatch, other: list[Point], code: int) -> None:
    """As the first of two processes ends."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(check, "check", lambda *_: compared(other))
    monkeypatch.setattr(sys, "argv", ["phalanx", "check", "gpt-tiny"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code


def test_one_process_is_no_layout(corpus: Corpus) -> None:
    with pytest.raises(InputError, match="nothing to compare"):
        check.check("gpt-tiny", corpus.words("gpt"), 3)


def test_a_model_too_large_for_one_process(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = corpus.config("gpt", "model.layers=8")
    monkeypatch.setattr(check, "_memory", lambda _: 16 * spec_of(config.model).elements - 1)
    with pytest.raises(InputError, match=r"fewer blocks: model\.layers=[1-4] would do"):
        check._possible(config)
