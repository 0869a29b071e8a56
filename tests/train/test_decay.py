"""A stable run decays from any checkpoint, in a folder of its own; nobody could tell that it was not planned."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from phalanx.cli.app import app
from phalanx.errors import InputError
from phalanx.run.branch import Branch
from phalanx.run.folder import RunFolder
from phalanx.tasks.decay import Decay
from phalanx.tasks.run import train
from tests.cli.running import phalanx
from tests.train.runs import Corpus, curve

STABLE = [
    "optim.schedule=wsd",
    "optim.min_lr=0",
    "model.dropout=0.1",
    "save.every=2",
    "save.keep=9",
    "train.eval_every=2",
]


@pytest.fixture(scope="module")
def words(corpus: Corpus) -> list[str]:
    """The overrides of a tiny stable run."""
    return [*corpus.words("gpt"), *STABLE]


@pytest.fixture(scope="module")
def stable(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps that has no decay. Its warm-up is two of them, said as a share."""
    run = tmp_path_factory.mktemp("decay") / "stable"
    train("gpt-tiny", [*words, "optim.warmup=0.34"], run, quiet=True)
    return run


def test_it_is_the_run_whose_decay_was_planned(words: list[str], stable: Path, tmp_path: Path) -> None:
    """Bit for bit, in the records of the new folder from the first step on; and the stable run is left as it is."""
    planned = [*words, "train.steps=8", "optim.warmup=2.04", "optim.decay_steps=4"]
    train("gpt-tiny", planned, tmp_path / "planned", quiet=True)
    before = {path: path.read_bytes() for path in stable.rglob("*") if path.is_file()}

    train(str(stable), quiet=True, decay=Decay(4, 4))
    decayed = stable.with_name("stable-decay-4")
    assert curve(decayed) == curve(tmp_path / "planned")
    rates = [record["lr"] for record in curve(decayed) if record["kind"] == "train"]
    assert rates[2:] == pytest.approx([5e-3, 5e-3, 3.75e-3, 2.5e-3, 1.25e-3, 0.0])
    for end in ("best", "step-0000008/checkpoint.json"):
        one, other = ((run / "checkpoints" / end).read_bytes() for run in (decayed, tmp_path / "planned"))
        assert one == other

    assert {path: path.read_bytes() for path in stable.rglob("*") if path.is_file()} == before


def test_a_decay_that_was_interrupted_goes_on(stable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it was: while its folder was made, and in the middle of its steps."""
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    train(str(stable), ["save.every=1"], whole, quiet=True, decay=Decay(2, 4))

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "write_config", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(str(stable), ["save.every=1"], parted, quiet=True, decay=Decay(2, 4))
    assert not RunFolder(parted).exists and RunFolder(parted).saved
    train(str(stable), ["save.every=1"], parted, quiet=True, decay=Decay(2, 4))
    assert curve(parted) == curve(whole)

    (parted / "checkpoints" / "step-0000006").rename(tmp_path / "gone")
    train(str(parted), quiet=True)
    assert curve(parted) == curve(whole)
    with pytest.raises(InputError, match=r"holds a run with optim.decay_steps=2.0, not 3.0"):
        train(str(stable), [], parted, quiet=True, decay=Decay(3, 4))


def test_the_command(stable: Path, tmp_path: Path) -> None:
    """Without a number it is a tenth of the whole, from the newest checkpoint; and nothing is copied."""
    phalanx("train", stable, "--decay", "train.eval_every=0")
    config = RunFolder.open(stable.with_name("stable-decay-6")).config()
    assert (config.optim.schedule, config.optim.decay_steps, config.train.steps) == ("wsd", 1, 7)
    assert config.optim.warmup == pytest.approx(2.04)

    phalanx("train", stable, "--decay", "0.5", "--from", "4", "--out", tmp_path / "half", "optim.decay_shape=1-sqrt")
    assert RunFolder.open(tmp_path / "half").config().train.steps == 8
    files = [*(stable / "checkpoints" / "step-0000004").iterdir()]
    assert files and all(file.stat().st_nlink > 1 for file in files if file.suffix == ".safetensors")


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        (["--decay", "-3"], "--decay -3 is no decay"),
        (["--decay", "0"], "--decay 0 is no decay; give its steps, or their share of the whole run below 1, as 0.1"),
        (["--decay", "2", "--from", "5"], "has no checkpoint of step 5; it has 2, 4, 6"),
        (["--decay", "2", "--from", "2"], "cannot decay from step 2: its warm-up ends with step 2.04"),
        (["--decay", "2", "--from", "runs/x"], "give the step of a checkpoint"),
        (["--decay", "2", "model.layers=3"], "model.layers=3 cannot be decayed from"),
        (["--decay", "2", "optim.name=lamb"], "optim.name=lamb cannot be decayed from"),
    ],
)
def test_what_cannot_decay_is_an_input_error(stable: Path, asked: list[str], complaint: str) -> None:
    result = CliRunner().invoke(app, ["train", str(stable), *asked])
    assert isinstance(result.exception, InputError) and complaint in str(result.exception)


def test_a_rate_that_falls_is_an_input_error(words: list[str], tmp_path: Path) -> None:
    """All the way, or in a decay of the run's own; a recipe is no run."""
    run = tmp_path / "falling"
    train("gpt-tiny", [*words, "optim.decay_steps=3"], run, quiet=True)
    with pytest.raises(InputError, match=r"from step 6: its own decay began after step 3; give an earlier checkpoint"):
        train(str(run), quiet=True, decay=Decay(2))
    config = RunFolder(run).config()
    RunFolder(run).write_config(config.updated(optim={"schedule": "cosine", "decay_steps": 0.0}))
    with pytest.raises(InputError, match=r"falls all the way \(optim.schedule=cosine\); train with optim.schedule=wsd"):
        train(str(run), quiet=True, decay=Decay(2))
    with pytest.raises(InputError, match="gpt-tiny is no run"):
        train("gpt-tiny", quiet=True, decay=Decay(2))


def test_a_checkpoint_that_went_meanwhile(tmp_path: Path) -> None:
    branch = Branch(RunFolder(tmp_path / "run"), 2, (tmp_path / "run" / "checkpoints" / "step-0000002",), best=False)
    with pytest.raises(InputError, match=r"step-0000002 is gone: .*run goes on and has newer ones; try again"):
        branch.begin(RunFolder(tmp_path / "new"))
