"""docs/extending.md shows the code that the tests of strangers run, and its commands do what they say."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from tests.infer.runs import make_run
from tests.train.runs import make_corpus
from typer.testing import CliRunner

from phalanx.cli.app import app
from phalanx.serve.http_server import HttpServer
from phalanx.train import monitor

STRANGERS = Path(__file__).parents[1] / "strangers"
PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
BLOCKS = [block for language, block in FENCED if language == "python"]
COMMANDS = [block.replace("mine.", "tests.strangers.").splitlines() for language, block in FENCED if not language]
BERT = ["model.layers=1", "model.init_std=0.2"]
SMALLER = ["train.steps=1", "train.batch=2", "train.compile=off", "train.device=cpu", "precision.dtype=fp32"]
SIZES = ["model.layers=1", "model.hidden=32", "model.heads=4", "model.positions=32", "data.sequence=32"]
ADDED = {  # to a command's words, so that little is computed
    "train": [*SMALLER, *SIZES, "train.eval_every=0"],
    "tune": SMALLER,
    "bench": ["--precision", "fp32", "--batch", "1", "--lengths", "8", "--rounds", "1"],
    "serve": ["--port", "0"],
}


def test_there_is_code() -> None:
    assert len(BLOCKS) == 8 and sum(map(len, COMMANDS)) == 22


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: re.findall(r"class (\w+)", block)[-1])
def test_the_code_is_that_of_the_tests(block: str) -> None:
    assert any(block in file.read_text(encoding="utf-8") for file in STRANGERS.glob("*.py"))
    assert len(block.splitlines()) < 60


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the page's commands read: a set, tables, sentences, runs of a BERT and a GPT."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "data").mkdir()
    (folder / "runs").mkdir()
    corpus = make_corpus(folder)
    for suffix in ("bin", "idx"):
        shutil.copy(folder / f"gpt.{suffix}", folder / "data" / f"my.{suffix}")
    for name, family in ("bert", "bert"), ("gpt", "gpt"):
        make_run(folder / "runs" / name, corpus.config(family, *BERT), str(corpus.file(family)))

    table = "text,label\n" + "".join(f"text number {n},{1 + n % 5}\n" for n in range(20))
    for name in ("reviews", "others"):
        (folder / f"{name}.csv").write_text(table)
    (folder / "sentences.txt").write_text("a text\nanother\n")
    return folder


@pytest.mark.parametrize("lines", COMMANDS, ids=lambda lines: re.findall(r"strangers\.(\w+:\w+)", lines[0])[-1])
def test_the_commands_are_possible(
    files: Path, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, on models and steps that are small; only the server, which would not end, does not begin."""
    monkeypatch.setattr(monitor, "peak_flops", lambda *_: 1e9)
    monkeypatch.setattr(HttpServer, "run", lambda _: None)
    shutil.copytree(files, tmp_path / "page")
    monkeypatch.chdir(tmp_path / "page")
    for number, line in enumerate(lines):
        program, verb, *words = shlex.split(line, comments=True)
        if verb == "train" and "--help" not in words:
            tokenizer = ["data.tokenizer=gpt.json"] * ("data.tokenizer=" not in line)
            words += [*tokenizer, *([] if "--out" in words else ["--out", f"runs/{number}"])]
        added = ADDED.get(verb, []) if "--help" not in words else []
        told = CliRunner().invoke(app, [verb, *words, *added])
        assert program == "phalanx" and told.exit_code == 0, f"{line}\n{told.output}{told.exception}"
