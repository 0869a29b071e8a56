"""`phalanx tune hf:FOLDER`: arguments are looked at before the model, and a refusal leaves nothing behind."""

import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
from typer.testing import CliRunner

from phalanx.cli.app import app
from phalanx.convert import huggingface
from phalanx.errors import InputError
from phalanx.run.folder import RunFolder
from phalanx.runtime import launch, rendezvous
from tests.convert.folders import write_folder

QUICK = ["train.steps=1", "train.batch=2", "train.device=cpu", "train.compile=off", "model.dropout=0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("folder") / "bert"
    write_folder(made, "bert")
    return made


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "table.tsv"
    file.write_text("text\tlabel\n" + "a fine day\tgood\na dull day\tbad\n" * 6)
    return file


def refused(*words: object) -> str:
    """What is said of them."""
    told = CliRunner().invoke(app, ["tune", *map(str, words)])
    assert isinstance(told.exception, InputError), (told.exception, told.output)
    return str(told.exception)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "klasses"], "no task 'klasses'"),
        (["--task", "classes", "--data", "nowhere"], "neither a file nor a folder"),
        (["--task", "classes", "optim.rl=1"], "optim.rl is not a key"),
        (["--task", "classes", "train.batch=-2"], "train.batch=-2 will not do"),
        (["--task", "classes", "--sweep", "lr"], "--sweep lr"),
        (["--task", "classes", "--sweep", "lr=1e-3,fast"], "optim.lr=.* will not do"),
        (["--task", "classes", "--sweep", "epochs=1,many"], "epochs=many is no number"),
        (["--task", "classes", "--sweep", "epochs=nan"], "epochs=nan is no number"),
    ],
)
def test_arguments_first(
    folder: Path, table: Path, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface, "import_folder", lambda *_: pytest.fail("the model was read first"))
    with pytest.raises(InputError, match=said):
        raise InputError(refused(f"hf:{folder}", "--data", table, "--out", table.with_name("out"), *words))
    assert [*table.parent.iterdir()] == [table]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--text", "title"], "title"),  # a column that is not there
        (["layout.tp=3"], "3"),  # heads that do not divide
        (["model.layers=3"], "model.layers=2, not model.layers=3; take its keys"),
    ],
)
def test_what_the_model_refuses_leaves_nothing(folder: Path, table: Path, words: list[str], said: str) -> None:
    out = table.with_name("out")
    assert said in refused(f"hf:{folder}", "--task", "classes", "--data", table, "--out", out, *QUICK, *words)
    assert [*table.parent.iterdir()] == [table]


def test_a_model_that_was_tuned_stays(folder: Path, table: Path) -> None:
    out = table.with_name("out")
    words = ["tune", f"hf:{folder}", "--task", "classes", "--data", str(table), "--out", str(out), *QUICK]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.exception
    assert RunFolder.open(out).config().train.init == str(out.with_name("out-model"))
    assert CliRunner().invoke(app, words).exit_code == 0  # again: nothing is left to do
    assert "has none of" not in refused(*words[1:], "train.steps=3", "train.seed=2")
    assert RunFolder.open(out).exists and RunFolder.open(out.with_name("out-model")).exists


def test_a_run_goes_on_only_from_its_own_folder(folder: Path, table: Path) -> None:
    """A second folder's model is not taken for the first one's, however much the command looks alike."""
    out, other = table.with_name("out"), shutil.copytree(folder, table.with_name("other"))
    words = ["--task", "classes", "--data", table, "--out", out, *QUICK]
    huggingface.import_folder(folder, out.with_name("out-model"))
    said = refused(f"hf:{other}", *words)
    assert said.startswith(f"{out} was begun from hf:{folder}, not from hf:{other}; give another --out")
    assert (
        said.endswith(f"phalanx tune {out}-model --out {out}")
        and out.with_name("out-model").exists()
        and not out.exists()
    )
    (out.with_name("out-model") / "import.json").unlink()  # as it was before the source was written down
    assert "layout.tp=3" in refused(f"hf:{other}", *words, "layout.tp=3")


def test_many_processes_want_a_run(folder: Path, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would read the model, and one write it."""
    monkeypatch.setattr(rendezvous, "world", lambda: 2)
    assert "phalanx import" in refused(f"hf:{folder}", "--task", "classes", "--data", table)


@pytest.mark.parametrize(("code", "stays"), [(2, False), (1, True)])
def test_a_refusal_of_started_processes(
    folder: Path, table: Path, code: int, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes as their exit code; a crash is no refusal."""
    out = table.with_name("out")

    def launched(*_: object) -> int:
        with RunFolder(out).lock():
            return code

    monkeypatch.setattr(launch, "launch", launched)
    words = ["--task", "classes", "--data", table, "--out", out, "--procs", 2, *QUICK]
    told = CliRunner().invoke(app, ["tune", f"hf:{folder}", *map(str, words)])
    assert told.exit_code == code
    assert sorted(table.parent.iterdir()) == sorted([table, *([out, out.with_name("out-model")] if stays else [])])


def test_a_folder_of_a_second_command_stays(folder: Path, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It came between the look whether there is one and the refusal."""
    out = table.with_name("out")
    with ExitStack() as held:

        def launched(*_: object) -> int:
            held.enter_context(RunFolder(out).lock())
            (out / "tokenizer.json").write_text("{}")
            raise InputError("of the first command")

        monkeypatch.setattr(launch, "launch", launched)
        words = ["--task", "classes", "--data", table, "--out", out, "--procs", 2, *QUICK]
        assert refused(f"hf:{folder}", *words) == "of the first command"
        assert (out / "tokenizer.json").exists() and out.with_name("out-model").exists()
