"""phalanx scale: what grows, what is measured, what is refused."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phalanx.cli.app import app
from phalanx.errors import InputError
from phalanx.measure.scale import grown, scale, turns
from phalanx.models.family import spec_of
from phalanx.run.folder import RunFolder
from phalanx.spec.costs import flops_per_token

pytestmark = pytest.mark.processes

SIZES = [
    "model.preset=",
    "model.layers=2",
    "model.hidden=64",
    "model.heads=4",
    "model.vocab=512",
    "model.positions=128",
]
TINY = [*SIZES, "data.sequence=32", "train.batch=4", "train.device=cpu", "precision.dtype=fp32"]

two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs a core for each of two processes")


@pytest.mark.parametrize(
    ("parallel", "batch", "sequence", "layers", "hidden"),
    [("dp", 16, 32, 2, 64), ("cp", 4, 128, 2, 64), ("pp", 16, 32, 8, 64), ("tp", 4, 32, 2, 128)],
)
def test_weak_scaling_grows_the_work(parallel: str, batch: int, sequence: int, layers: int, hidden: int) -> None:
    config = grown("gpt2-124m", TINY, parallel, "weak", 4)
    assert (config.train.batch, config.data.sequence, config.model.layers, config.model.hidden) == (
        batch, sequence, layers, hidden,
    )  # fmt: skip
    assert getattr(config.layout, parallel) == 4
    assert config.model.hidden // config.model.heads == 16


def test_tensor_parallel_weak_scaling_keeps_the_parameters_of_a_process() -> None:
    """As in the Megatron paper, arXiv 1909.08053, table 1: four times the processes, four times the parameters."""
    words = [word for word in TINY if "hidden" not in word and "heads" not in word]
    one, four = (grown("gpt2-124m", [*words, "model.hidden=256", "model.heads=8"], "tp", "weak", n) for n in (1, 4))
    ratio = flops_per_token(spec_of(four.model), 32) / flops_per_token(spec_of(one.model), 32)
    assert ratio == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize("parallel", ["dp", "cp", "pp", "tp"])
def test_strong_scaling_keeps_the_work(parallel: str) -> None:
    one, two = (grown("gpt2-124m", TINY, parallel, "strong", n) for n in (1, 2))
    assert (one.train.batch, one.data.sequence) == (two.train.batch, two.data.sequence)
    assert one.model == two.model and getattr(two.layout, parallel) == 2


def test_a_run_is_called_by_its_folder(tmp_path: Path) -> None:
    run = grown("gpt2-124m", TINY, "dp", "strong", 1)
    RunFolder.create(tmp_path / "run", run)
    two = grown(str(tmp_path / "run"), [], "dp", "weak", 2)
    assert (two.model, two.train.batch, two.layout.dp) == (run.model, 2 * run.train.batch, 2)


@two_cores
def test_two_processes() -> None:
    calls: list[None] = []
    one, two = scale("gpt2-124m", TINY, "dp", "weak", [2], 2, lambda: calls.append(None))
    assert len(calls) == turns([2], 2)
    assert (one.processes, two.processes) == (1, 2) and one.efficiency == 1
    assert two.efficiency == pytest.approx(two.model_flops_per_process / one.model_flops_per_process)
    assert two.tokens_per_s == pytest.approx(2 * 4 * 32 / two.seconds)


@pytest.mark.slow
@two_cores
def test_the_verb(tmp_path: Path) -> None:
    words = [*TINY, "--procs", "1,2", "--parallel", "tp", "--steps", "1", "--out", str(tmp_path / "s.png")]
    told = CliRunner().invoke(app, ["scale", "gpt2-124m", *words, "--json", str(tmp_path / "s.json")])
    assert told.exit_code == 0, told.exception
    assert "efficiency" in told.stdout and (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    records = json.loads((tmp_path / "s.json").read_text())
    assert [record["processes"] for record in records] == [1, 2] and records[0]["efficiency"] == 1
    drawn = CliRunner().invoke(
        app, ["plan", "curve", "--out", str(tmp_path / "c.png"), "--measured", str(tmp_path / "s.json")]
    )
    assert drawn.exit_code == 0 and "tp, weak" in drawn.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--procs", "1,4096"], "up to"),
        (["--procs", "two"], "write 1,2,4"),
        (["--procs", "3", "--parallel", "tp", "--kind", "strong"], "layout.tp=3"),
    ],
)
def test_refused_in_one_line(words: list[str], said: str) -> None:
    refused = CliRunner().invoke(app, ["scale", "gpt2-124m", *TINY, *words])
    assert isinstance(refused.exception, InputError) and said in str(refused.exception)
    assert "\n" not in str(refused.exception)
