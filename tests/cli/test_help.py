"""What `--help`, `--version` and mistaken options say: enough to go on with, on one screen or two."""

import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import phalanx
from phalanx.cli import main
from phalanx.cli.app import HEADINGS, app
from phalanx.config import Config

PROGRAM = """
import sys
from phalanx.cli import main

sys.argv = ["phalanx", "train", "--help"]
try:
    main()
finally:
    print(*sys.modules)
"""


def told(*words: str) -> str:
    """The output of a command that must end well."""
    result = CliRunner().invoke(app, [*words], catch_exceptions=False, terminal_width=80)
    assert result.exit_code == 0, result.output
    return result.output


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str) -> str:
    """What a command says that must end with exit code 2, on stderr."""
    monkeypatch.setattr(sys, "argv", ["phalanx", *command.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_version() -> None:
    others = f"torch {version('torch')}, Python {sys.version.split()[0]}"
    assert told("--version") == f"phalanx {phalanx.__version__} ({others})\n"


def test_every_verb_stands_under_one_heading() -> None:
    verbs = [verb for verbs in HEADINGS.values() for verb in verbs]
    assert sorted(verbs) == sorted(get_command(app).commands)  # type: ignore[attr-defined]


def test_verbs_are_told_in_whole_sentences() -> None:
    lines = told("--help").splitlines()
    for heading, verbs in HEADINGS.items():
        start = lines.index(f"{heading}:")
        assert [line.split()[0] for line in lines[start + 1 : start + 1 + len(verbs)]] == [*verbs]
        assert all(line.endswith(".") and not line.endswith("..") for line in lines[start + 1 : start + 1 + len(verbs)])
    assert len(lines) < 50


@pytest.mark.parametrize("verb", ["plan", "tokenizer", "data", "bench", "launch", "models"])
def test_verbs_within_a_verb_too(verb: str) -> None:
    text = told(verb, "--help")
    assert "..." not in text.partition("Commands:")[2]


@pytest.mark.parametrize("verb", ["train", "check", "tune"])
def test_the_keys_that_matter_come_first(verb: str) -> None:
    text = told(verb, "--help")
    assert "optim.lr=" in text and "train.batch=" in text and "optim.beta2=" not in text
    assert text.count("\n      ") < 60 and len(text.partition("\nRecipes:")[0].splitlines()) < 75
    assert f"phalanx {verb} --help --all" in text
    everything = told(verb, "--help", "--all")
    for name, section in Config.model_fields.items():
        for key in getattr(section.annotation, "model_fields", {}):
            assert f"  {name}.{key}=" in everything
    assert told(verb, "--all") == told(verb, "--all", "--help") == everything


def test_help_imports_little() -> None:
    """Every command starts with this, so what it imports is counted: ours by name, all that Typer and pydantic need."""
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    imported = result.stdout.splitlines()[-1].split()
    ours = {name for name in imported if name.startswith("phalanx.") and not name.startswith("phalanx.cli")}
    settings = {"config", "errors", "foreign", "optimizer", "owners", "parent", "recipe", "registry", "section"}
    settings |= {"keys", "model_config", "strict_json", "values"}
    assert ours == {f"phalanx.{name}" for name in settings}
    assert not {"torch", "numpy", "rich", "logging", "ctypes"} & {*imported}
    assert len(imported) < 300


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("train gpt-tiny --steps 40", "train.steps=40"),
        ("train gpt-tiny --steps=40", "train.steps=40"),
        ("train --steps 40 gpt-tiny", "train.steps=40"),
        ("train gpt-tiny --train.steps 40", "train.steps=40"),
        ("train gpt-tiny --micro-batch 4", "layout.micro_batch=4"),
        ("train gpt-tiny --dropout 0.2", "model.dropout=0.2"),
        ("train gpt-tiny --every 5", "save.every=5 or log.every=5"),
        ("train gpt-tiny --whole-word data.train=a", "data.whole_word=…"),
        ("train gpt-tiny --epochs 3", "train.steps=…"),
        ("train gpt-tiny --batch-size 8", "train.batch=8"),
        ("train gpt-tiny --learning-rate 1e-3", "optim.lr=1e-3"),
        ("train gpt-tiny --bf16", "precision.dtype=bf16"),
        ("train gpt-tiny --step 40", "train.steps=40"),
        ("tune runs/bert --task rte --data x --lr 1e-5", "optim.lr=1e-5"),
        ("check gpt-tiny --tp 2", "layout.tp=2"),
        ("plan gpt2-8.3b --tp 8", "layout.tp=8"),
        ("trace gpt2-8.3b --tp 8", "layout.tp=8"),
        ("scale gpt-tiny --seed 8", "train.seed=8"),
        ("launch slurm gpt-tiny --nodes 2 --seed 8", "train.seed=8"),
    ],
)
def test_an_option_that_is_a_key_is_shown_as_a_word(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, hint: str
) -> None:
    said = refused(capsys, monkeypatch, command)
    assert said.startswith("phalanx: --") and said.count("\n") == 1
    assert hint in said


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("plan gpt2-8.3b --top 0", "--top 0: give 1 or more"),
        ("plan gpt2-8.3b --top 1001", "--top 1001: give 1,000 at most"),
        ("plan gpt2-8.3b --price -1", "--price -1: give 0 or more"),
        ("plan gpt2-8.3b --price free", "--price free: give a number"),
        ("plan gpt2-8.3b --gpus many", "--gpus many: give a whole number"),
        ("plan gpt2-8.3b --gpus 1.5", "--gpus 1.5: give a whole number"),
        ("plan gpt2-8.3b --gpus 80000000", "--gpus 80000000: give 1 to 1,000,000"),
        ("plan gpt2-8.3b --gpus 0", "--gpus 0: give 1 to 1,000,000"),
        ("trace gpt-tiny --ranks -1", "--ranks -1: give 0 or more"),
        ("serve x --port 99999", "--port 99999: give 65,535 at most"),
    ],
)
def test_a_value_that_will_not_do_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, said: str
) -> None:
    assert refused(capsys, monkeypatch, command) == f"phalanx: {said}\n"


def test_epochs_are_explained(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "an epoch is" in refused(capsys, monkeypatch, "train gpt-tiny --epochs 3")


@pytest.mark.parametrize(
    ("command", "hint"),
    [("train gpt-tiny --restart 3", "--restarts"), ("check gpt-tiny --steps", "requires an argument")],
)
def test_options_of_the_verb_itself_are_left_to_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, hint: str
) -> None:
    said = refused(capsys, monkeypatch, command)
    assert hint in said and "=" not in said
