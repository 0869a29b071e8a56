"""A tracker from outside hears of a run; one that fails does not end it."""

from pathlib import Path

import pytest

from phalanx.config import Config
from phalanx.errors import InputError
from phalanx.models.family import spec_of
from phalanx.run.folder import RunFolder
from phalanx.run.records import FILE, read
from phalanx.tasks.run import train
from phalanx.train import monitor
from phalanx.train.monitor import Monitor
from tests.train.runs import Corpus


@pytest.fixture(autouse=True)
def _known_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "peak_flops", lambda *_: 1e9)


def config_with(*trackers: str) -> Config:
    names = tuple(f"tests.strangers.trackers:{name}" for name in trackers)
    return Config.model_validate({
        "model": {"vocab": 77, "layers": 1, "hidden": 8, "heads": 2},
        "train": {"device": "cpu", "compile": "off"}, "precision": {"dtype": "fp32"}, "log": {"trackers": names},
    })  # fmt: skip


def tell(config: Config, folder: Path) -> None:
    """Of three steps and an evaluation."""
    told = Monitor(config, RunFolder(folder), quiet=True)
    with told.running(0, 0):
        for step in (1, 2, 3):
            told.step(step, {"loss": 6.0 / step, "tokens": 8 * step})
        told.valid(3, {"loss": 2.5})


def test_a_tracker_hears_of_a_run(tmp_path: Path) -> None:
    config = config_with("Diary")
    tell(config, tmp_path)
    assert (tmp_path / "diary.txt").read_text().splitlines() == [
        "clm from step 0", f"{spec_of(config.model).elements} parameters",
        "step 1: loss 6.00", "step 2: loss 3.00", "step 3: loss 2.00", "held-out loss after step 3: 2.50", "the end",
    ]  # fmt: skip
    assert not (tmp_path / "tensorboard").exists(), "it was not named"


def test_one_that_fails_is_told_nothing_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tell(config_with("Unlucky"), tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("Unlucky failed and is told nothing more: ConnectionError: no route to host") == 1
    assert [record["step"] for record in read(tmp_path / FILE)] == [0, 1, 2, 3, 3]
    assert "the end" not in (tmp_path / "diary.txt").read_text()


def test_a_required_one_that_fails_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="no route to host"):
        tell(config_with("Required"), tmp_path)


def test_what_is_no_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"log\.trackers 'tests\.strangers\.trackers:Path' is none: it has no start"):
        tell(config_with("Path"), tmp_path)


def test_one_that_cannot_begin_does_not_end_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tell(config_with("Absent", "Diary"), tmp_path)
    said = " ".join(capsys.readouterr().out.split())
    assert "tests.strangers.trackers:Absent failed and is told nothing: PermissionError: no key" in said
    assert "the end" in (tmp_path / "diary.txt").read_text()


def test_an_unknown_one_is_told_before_anything_is_made(corpus: Corpus, tmp_path: Path) -> None:
    words = [*corpus.words("gpt"), "log.trackers=wandb"]
    with pytest.raises(InputError, match=r"unknown log\.trackers 'wandb'"):
        train("gpt-tiny", words, tmp_path / "run")
    assert not (tmp_path / "run").exists()
