"""A model split over processes writes what it writes on one."""

import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phalanx.cli.app import app
from phalanx.errors import InputError
from phalanx.infer import load_decoder
from phalanx.infer.sample import Options
from phalanx.run.folder import RunFolder
from phalanx.run.import_record import ImportRecord
from phalanx.tasks.distributed_generate import distributed_generator
from tests.infer.runs import GPT, make_run
from tests.interpreter import python


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = GPT.model.model_copy(update={"layers": 2, "heads": 4, "positions": 48, "init_std": 0.2})
    data = GPT.data.model_copy(update={"sequence": 48})
    path = tmp_path_factory.mktemp("gpt") / "run"
    make_run(path, GPT.model_copy(update={"model": model, "data": data}), "gpt2")
    return path


def written(run: Path, *words: str) -> str:
    command = [python(), "-m", "phalanx", "generate", str(run), "The cat sat on", "--tokens", "50", *words]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    return told.stdout


@pytest.mark.parametrize(
    ("how", "options", "layout"),
    [
        (["--greedy"], Options(max_tokens=50, temperature=0), "layout.tp=4"),
        (["--seed", "3"], Options(max_tokens=50, temperature=0.8, top_p=0.95, seed=3), "layout.tp=2"),
    ],
    ids=["greedy", "drawn"],
)
def test_the_same_tokens(run: Path, how: list[str], options: Options, layout: str) -> None:
    """On 1, 2 and 4 processes, past the context too."""
    alone = "".join(load_decoder(run).generate("The cat sat on", options))
    assert len(alone) > 40
    assert written(run, layout, *how) == f"The cat sat on{alone}\n"


def test_what_ends_a_text_there_ends_it_laid_out(run: Path, tmp_path: Path) -> None:
    """As the folder said that a model was imported from."""
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    ImportRecord(ends=(7,)).write(RunFolder(copy))
    with distributed_generator(copy, []) as gpt:
        assert gpt.engine.stop_tokens == load_decoder(copy).engine.stop_tokens == (7,)


@pytest.mark.parametrize("verb", [("generate", "The cat"), ("eval",)])
def test_an_impossible_layout_starts_nothing(run: Path, monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...]) -> None:
    monkeypatch.setattr("phalanx.runtime.launch.launch", None)
    told = CliRunner().invoke(app, [verb[0], str(run), *verb[1:], "layout.tp=8"])
    assert str(told.exception) == "layout.tp=8 does not divide model.heads=4; use one of 1, 2, 4"


def test_other_layouts(run: Path) -> None:
    with pytest.raises(InputError, match=r"laid out by layout\.tp alone"), distributed_generator(run, ["layout.pp=2"]):
        pass
