"""`phalanx check`: both curves side by side, and a verdict that bites."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.optim import Optimizer

from phalanx import cli
from phalanx.config import OptimConfig
from phalanx.errors import InputError
from phalanx.parallel.parameters import Parameters
from phalanx.run.comparison import Comparison, Point, largest
from phalanx.tasks import check
from phalanx.train.optim import lamb
from tests.train.runs import Corpus

CURVE = [Point(5.0 - 0.1 * step, 1.0 + 0.01 * step) for step in range(12)]


def compared(other: list[Point], dtype: str = "fp32") -> Comparison:
    return Comparison(("one process", "tp=2"), (CURVE, other), dtype)


def moved(step: int, loss: float = 0.0, norm: float = 0.0) -> list[Point]:
    """The curve with one step's loss and norm changed."""
    point = CURVE[step - 1]
    return [*CURVE[: step - 1], Point(point.loss + loss, point.norm + norm), *CURVE[step:]]


def careless(parameters: Parameters, optim: OptimConfig) -> list[Optimizer]:
    """LAMB that takes the norms of this rank's parts for those of the wholes."""
    return lamb(Parameters(parameters.locals), optim)


@pytest.mark.parametrize("optimizer", ["lamb", f"{__name__}:careless"])
def test_the_command(corpus: Corpus, tmp_path: Path, optimizer: str) -> None:
    words = [*corpus.words("gpt"), "model.dropout=0.1", f"optim.name={optimizer}", "optim.lr=0.03", "layout.tp=2"]
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([*sys.path, root])}
    done = subprocess.run(
        [sys.executable, "-m", "phalanx", "check", "gpt-tiny", *words, "--steps", "5", "--out", "curves.png"],
        cwd=tmp_path, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    right = optimizer == "lamb"
    assert done.returncode == (0 if right else 1), done.stderr
    assert "restart" not in done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.split()[0].isdecimal()]
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5"]
    gap = max(abs(float(one) - float(other)) for _, one, other, *_ in rows)
    assert gap < 1e-4 if right else gap > 1e-3
    assert float(rows[0][1]) > float(rows[-1][1]), "it learns"
    assert done.stdout.splitlines()[-1].startswith("the curves agree" if right else "the curves do NOT agree")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"], "and leaves nothing else"


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
    count = check.family("gpt2").parameters_of
    monkeypatch.setattr(check, "_memory", lambda _: 16 * count(config.model) - 1)
    with pytest.raises(InputError, match=r"fewer blocks: model\.layers=[1-4] would do"):
        check._possible(config)
