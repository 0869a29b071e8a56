"""An optimizer from outside, with a key of its own, goes where those of the package go."""

import json
import shutil
from pathlib import Path

import pytest
from torch import nn
from typer.testing import CliRunner

from phalanx import recipe
from phalanx.cli.app import app
from phalanx.errors import InputError
from phalanx.parallel.mesh import Axis
from phalanx.parallel.parameters import Parameters
from phalanx.plan.trace import trace
from phalanx.plan.trace_report import TraceReport
from phalanx.run.folder import RunFolder
from phalanx.tasks.run import train
from phalanx.train.optimizers import AdamW
from phalanx.train.resolve import Target, resolve
from phalanx.train.state import check_state
from tests.layouts.conftest import Alone
from tests.layouts.curves import curve as train_and_tell
from tests.layouts.curves import farthest
from tests.layouts.pool import Pool
from tests.strangers.finished import finished
from tests.strangers.optimizers import Counted, Factored, Normed, Silent
from tests.train.described import parameters_of
from tests.train.runs import Corpus

NAME = "tests.strangers.optimizers:Normed"
NORMED = [f"optim.name={NAME}", "optim.lr=0.02", "optim.momentum=0.8", "train.steps=6", "train.eval_every=3"]
SMALL = "model.hidden=64 model.heads=4 model.layers=4 data.sequence=32 model.positions=32"
TOLERANCE = 1e-4  # of 6 steps in fp32


def test_its_keys_are_read_overridden_written_and_read_again(tmp_path: Path) -> None:
    (path := tmp_path / "mine.toml").write_text(f'extends = "gpt-tiny"\n[optim]\nmomentum = 0.5\nname = "{NAME}"\n')
    config = recipe.load(str(path), ["optim.weight_decay=0.2"])
    assert isinstance(config.optim, Normed) and config.optim.weight_decay == 0.2
    assert config.optim.momentum == 0.5 and not hasattr(config.optim, "beta2"), "gpt-tiny's is AdamW's alone"

    (again := tmp_path / "again.toml").write_text(text := recipe.dump(config))
    assert recipe.load(str(again)) == config
    assert "# How much of the momentum is left in a step.\nmomentum = 0.5\n" in text
    assert isinstance(recipe.load("gpt-tiny", [f"optim.name={NAME}"]).optim, Normed)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([f"optim.name={NAME}", "optim.beta2=0.9"], f"optim.beta2 is a key of optim.name=adamw, and {NAME} has none"),
        (["optim.split_fused=true"], "optim.split_fused is a key of optim.name=muon, and adamw has none of that name"),
        ([f"optim.name={NAME}", "optim.moment=0"], "optim.moment is not a key of the configuration; did you mean opt"),
        ([f"optim.name={NAME}", "optim.momentum=1"], "optim.momentum=1 will not do; it takes number >= 0 and < 1"),
        (["optim.name=tests.strangers.optimizers:NormedSteps"], "NormedSteps' is none: it has no build"),
        (["optim.name=tests.strangers.optimizers:Unknown"], "Unknown' cannot be loaded"),
    ],
)
def test_what_is_no_key_or_optimizer_is_refused_in_one_line(words: list[str], said: str) -> None:
    with pytest.raises(InputError) as caught:
        recipe.load("gpt2-124m", words)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_keys_that_every_optimizer_had_once_are_nothing_to_it(tmp_path: Path) -> None:
    """Where they hold the defaults of then."""
    (path := tmp_path / "former.toml").write_text(f'[optim]\nname = "{NAME}"\nbeta1 = 0.9\nbeta2 = 0.999\neps = 1e-8\n')
    assert recipe.load(str(path)).optim == Normed()
    path.write_text(path.read_text().replace("0.999", "0.99"))
    with pytest.raises(InputError, match=f"^optim.beta2 is a key of optim.name=adamw, and {NAME} has none"):
        recipe.load(str(path))


def test_help_lists_its_keys() -> None:
    told = CliRunner().invoke(app, ["train", "--help", f"optim.name={NAME}"], catch_exceptions=False).output
    assert "  optim.momentum=0.9  (number >= 0 and < 1)\n      How much of the momentum is left in a step.\n" in told
    assert "optim.beta2" not in told
    everything = CliRunner().invoke(app, ["train", "--all", "optim.name=muon"], catch_exceptions=False).output
    assert "  optim.split_fused=false  (true | false)\n" in everything and "  optim.beta2=" in everything


@pytest.mark.parametrize(
    ("processes", "words"),
    [
        (8, ["layout.tp=2", "layout.pp=2", "layout.micro_batch=2"]),
        (4, ["layout.tp=2", "layout.shard=zero3"]),
    ],
    ids=["tp2 pp2 dp2", "tp2 zero3"],
)
def test_one_curve(pool: Pool, alone: Alone, corpus: Corpus, processes: int, words: list[str]) -> None:
    found = pool.run(processes, train_and_tell, corpus.folder, "gpt", *NORMED, *words)
    assert farthest(found[0], alone("gpt", *NORMED)) < TOLERANCE
    assert farthest(found[-1], found[0]) == 0, "every rank tells the same"


@pytest.fixture(scope="module")
def run(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    return finished(corpus, tmp_path_factory.mktemp("normed"), *NORMED)


def test_a_run_is_used_where_its_optimizer_is_not(run: Path, tmp_path: Path) -> None:
    """To train it goes on to be needed."""
    shutil.copytree(run, other := tmp_path / "other")
    file = other / "config.toml"
    file.write_text(file.read_text().replace("tests.strangers.optimizers", "gone.from.here"))
    optim = RunFolder.open(other).config().optim
    assert isinstance(optim, AdamW) and optim.lr == 0.02
    with pytest.raises(InputError, match=r"optim\.name 'gone\.from\.here:Normed' cannot be loaded"):
        train(str(other), quiet=True)


@pytest.mark.parametrize("layout", ["layout.tp=2 layout.pp=2 layout.micro_batch=2", "layout.tp=2 layout.shard=zero2"])
def test_plan_and_trace_agree(layout: str) -> None:
    words = [*SMALL.split(), *layout.split(), f"optim.name={NAME}", "train.batch=8"]
    config = resolve(recipe.load("gpt2-124m", words), Target(8))
    report = TraceReport(config, trace(config, 8, device="cpu"), "cpu")
    assert report.traced.messages == report.messages
    assert report.memory.optimizer == pytest.approx(report.traced.peak["optimizer"], rel=1e-3)
    assert report.memory.optimizer == report.memory.parameters or config.layout.shard == "zero2", "4 bytes of each"


def test_it_is_planned_as_it_says() -> None:
    bytes_of = {}
    for name in (NAME, "adamw"):
        words = ["plan", "gpt2-124m", "--gpus", "1", f"optim.name={name}", "--top", "1", "--json"]
        told = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).output)
        bytes_of[name] = told["best"][0]["memory"]["optimizer"]
    assert bytes_of[NAME] == bytes_of["adamw"] / 2 > 4e8


def test_what_it_does_not_say_is_not_planned() -> None:
    config = resolve(
        recipe.load("gpt2-124m", [*SMALL.split(), f"optim.name={Silent().name}", "train.batch=8"]), Target(1)
    )
    with pytest.raises(InputError, match=r"Silent does not say what it sends; give it a messages\(\)"):
        TraceReport(config, trace(config, 1, device="cpu"), "cpu")
    with pytest.raises(InputError, match=r"Silent does not say what state it keeps; give it a state\(\)"):
        CliRunner().invoke(app, ["plan", "gpt2-124m", f"optim.name={Silent().name}"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("optim", "ranks", "said"),
    [
        (Counted(), 1, "the state of weight has steps=0; checkpoints hold tensors alone"),
        (Factored(), 2, r"the state of weight has rows of shape \[3, 1\], whose place in the whole nobody knows"),
        (Silent(momentum=0.9), 1, "Silent does not say what state it keeps"),
    ],
)
def test_state_that_no_checkpoint_could_hold(optim: Normed, ranks: int, said: str) -> None:
    """It is refused before a run begins that could not go on."""
    parameters = Parameters(parameters_of(nn.Linear(2, 3)).locals, Axis(ranks))
    made = optim.build(parameters)
    with pytest.raises(InputError, match=said):
        check_state(optim, made, parameters)


def test_state_for_each_row_is_held_by_one_process() -> None:
    parameters = parameters_of(nn.Linear(2, 3))
    check_state(Factored(), Factored().build(parameters), parameters)
