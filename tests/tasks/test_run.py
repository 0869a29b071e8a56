"""From a recipe's name to a run: names, agreement, and what must not change under a run."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from phalanx import durable, recipe
from phalanx.convert.huggingface import export_run
from phalanx.data.prepare import PrepareOptions, prepare
from phalanx.data.verify import fingerprint
from phalanx.errors import InputError
from phalanx.infer.bundle import load_bundle
from phalanx.report.runs import open_runs
from phalanx.run.folder import RunFolder
from phalanx.tasks.preflight import check_same_data
from phalanx.tasks.run import processes_here, train
from phalanx.tasks.score import score
from tests.train.runs import curve

SMALL = [
    "model.layers=1", "model.hidden=32", "model.heads=2", "model.positions=32", "data.sequence=16", "train.steps=2",
    "train.batch=4", "train.eval_every=0", "train.compile=off", "data.split=0.5,0.25,0.25",
]  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a set of one-line documents, `set`, and the text it came from."""
    folder = tmp_path_factory.mktemp("run")
    lines = [f"Line {n}: the weather is {'fine' if n % 3 else 'dull'} in week {n * 7 % 53}." for n in range(120)]
    (folder / "text.txt").write_text("\n".join(lines))
    prepare([str(folder / "text.txt")], str(folder / "set"), PrepareOptions(document="line", workers=1))
    return folder


@pytest.mark.slow
def test_a_run_is_named_by_its_recipe(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dot in the name is no suffix, and a folder called like a recipe does not hide it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt-1.5.toml").write_text('extends = "gpt-tiny"\n')
    (tmp_path / "gpt-tiny").mkdir()
    for name in ("gpt-1.5.toml", "gpt-tiny"):
        assert train(name, [*SMALL, f"data.train={text / 'set'}"], quiet=True) == 0
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"gpt-1.5", "gpt-tiny"}


def test_a_task_that_the_model_does_not_learn(text: Path, tmp_path: Path) -> None:
    """Found before there is a folder."""
    words = [*SMALL, f"data.train={text / 'set'}", "model.family=bert"]
    with pytest.raises(InputError, match=r"task=clm.*model\.family=bert"):
        train("gpt-tiny", words, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_data_that_changed_under_a_run(text: Path, tmp_path: Path) -> None:
    """A set prepared anew is another set, and its curve another curve."""
    source = tmp_path / "text.txt"
    source.write_text((text / "text.txt").read_text())
    options = PrepareOptions(document="line", workers=1)
    prepare([str(source)], str(tmp_path / "set"), options)
    train("gpt-tiny", [*SMALL, f"data.train={tmp_path / 'set'}"], tmp_path / "run", quiet=True)
    tokens = (tmp_path / "set.bin").read_bytes()
    (tmp_path / "set.bin").write_bytes(tokens[2:] + tokens[:2])
    with pytest.raises(InputError, match=r"set\.bin is not as it was written: bytes 0 to .* \(documents 0 to"):
        train(str(tmp_path / "run"), quiet=True)
    source.write_text(source.read_text().replace("fine", "foul"))
    prepare([str(source)], str(tmp_path / "set"), PrepareOptions(document="line", workers=1, force=True))
    with pytest.raises(InputError, match="has changed since"):
        train(str(tmp_path / "run"), quiet=True)


@pytest.mark.slow
def test_a_corrected_command_takes_the_place_of_a_run_that_saved_nothing(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong correction leaves the folder as it was; after the first checkpoint the configuration is fixed."""
    words, run = [*SMALL, f"data.train={text / 'set'}"], tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("phalanx.tasks.run._fit", lambda *_: 0)
        train("gpt-tiny", words, run, quiet=True)
    before = (run / "config.toml").read_text()
    with pytest.raises(InputError, match=r"optim\.name"):
        train("gpt-tiny", [*words, "optim.name=adamm"], run, quiet=True)
    assert (run / "config.toml").read_text() == before
    train("gpt-tiny", [*words, "optim.lr=1e-4"], run, quiet=True)
    assert RunFolder.open(run).config().optim.lr == 1e-4
    with pytest.raises(InputError, match=r"holds a run with optim\.lr=0\.0001, not"):
        train("gpt-tiny", words, run, quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["tokenizer.json", "data.json", "config.toml"])
def test_of_two_commands_at_once_in_a_new_folder_one_makes_it(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The other comes just when a file is there, and is told who trains; its settings are nowhere."""
    words, run, write = [*SMALL, f"data.train={text / 'set'}"], tmp_path / "run", durable.write

    def meanwhile(path: Path, content: bytes) -> None:
        write(path, content)
        if path.name == moment:
            monkeypatch.setattr(durable, "write", write)
            with pytest.raises(InputError, match=f"{run} is in use by process {os.getpid()}; "):
                train("gpt-tiny", [*words, "train.seed=7"], run, quiet=True)

    monkeypatch.setattr(durable, "write", meanwhile)
    assert train("gpt-tiny", words, run, quiet=True) == 0
    assert durable.write is write, "the other command came"
    assert train("gpt-tiny", words, run.with_name("alone"), quiet=True) == 0
    assert RunFolder.open(run).config().train.seed == RunFolder.open(run.with_name("alone")).config().train.seed
    assert curve(run) == curve(run.with_name("alone"))


@pytest.fixture(scope="module")
def finished(text: Path) -> Path:
    """A run of two steps, for copies."""
    run = text / "finished"
    train("gpt-tiny", [*SMALL, f"data.train={text / 'set'}"], run, quiet=True)
    return run


@pytest.mark.parametrize(
    ("began", "same"), [("1234 abcd", True), ("1234", True), ("123", False), ("", False), ("1234 abc", False)]
)
def test_data_are_the_same_as_a_whole(tmp_path: Path, began: str, same: bool) -> None:
    """Of sets without a manifest runs once kept the number of tokens alone; it too is compared as a whole."""
    (tmp_path / "data.json").write_text(json.dumps({"set": began}))
    with nullcontext() if same else pytest.raises(InputError, match="set has changed since"):
        check_same_data(RunFolder(tmp_path), {"set": "1234 abcd", "another": "5"})


def test_data_are_looked_at_once(text: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Much of every file is read for it: by the first rank of a run that begins or goes on, and by no other."""
    looked: list[str] = []
    monkeypatch.setattr(
        "phalanx.tasks.preflight.fingerprint", lambda prefix: looked.append(prefix) or fingerprint(prefix)
    )
    monkeypatch.setattr("phalanx.tasks.run.Trainer", lambda *_: SimpleNamespace(fit=lambda: None, stopped_by=0))
    train("gpt-tiny", [*SMALL, f"data.train={text / 'set'}"], tmp_path / "new", quiet=True)
    assert len(looked) == 1

    continued = shutil.copytree(finished, tmp_path / "run")
    train(str(continued), quiet=True)
    assert len(looked) == 2

    monkeypatch.setattr("phalanx.tasks.run.on_rank_zero", lambda *_: None)  # as on another rank
    train(str(continued), quiet=True)
    assert len(looked) == 2


@pytest.mark.parametrize("damage", [b'{"set": NaN}', b'{"set": "\xff"}', '{"set": "1234"}'.encode("utf-16")])
def test_a_record_of_the_data_is_strict_json(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "data.json").write_bytes(damage)
    with pytest.raises(InputError, match=r"data\.json is damaged, which told .* put it back"):
        check_same_data(RunFolder(tmp_path), {})


@pytest.mark.parametrize("damage", ["", '{"set": "12', '{"set": 123}', "[]", "17", "[" * 5000, "\0\0\0\0"])
@pytest.mark.slow
def test_a_damaged_record_of_the_data_is_one_line(finished: Path, tmp_path: Path, damage: str) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "data.json").write_text(damage)
    with pytest.raises(InputError, match=rf"^{run}/data\.json is damaged, .* put it back, or remove it"):
        train(str(run), quiet=True)
    (run / "data.json").unlink()
    assert train(str(run), quiet=True) == 0


def test_a_tokenizer_that_was_changed_is_told(finished: Path, tmp_path: Path) -> None:
    """Tokens would mean something else than the model has learned. Runs of before do not know theirs, and are taken."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    uses: list[Callable[[], object]] = [
        lambda: train(str(run), quiet=True), lambda: load_bundle(run), lambda: export_run(run, tmp_path / "exported"),
        lambda: score(run),
    ]  # fmt: skip
    file, began = run / "tokenizer.json", json.loads((run / "data.json").read_text())
    words = json.loads(file.read_text())
    words["model"]["vocab"] |= {"a": words["model"]["vocab"]["b"], "b": words["model"]["vocab"]["a"]}
    file.write_text(json.dumps(words))
    for use in uses:
        with pytest.raises(InputError, match=rf"^{file} is not the one that the run began with; put that back \("):
            use()

    del began["tokenizer.json"]
    (run / "data.json").write_text(json.dumps(began))
    assert load_bundle(run).tokenizer.json() != load_bundle(finished).tokenizer.json()
    file.unlink()
    with pytest.raises(InputError, match=rf"^{file} is missing; put it back$"):
        load_bundle(run)


def test_records_that_are_no_numbers_are_told(finished: Path, tmp_path: Path) -> None:
    """Before anything is trained, in the words of a report."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    first, second, *rest = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    second = json.dumps(json.loads(second) | {"loss": "low"}) + "\n"
    (run / "metrics.jsonl").write_text("".join([first, second, *rest]))
    for use in (lambda: train(str(run), quiet=True), lambda: open_runs([run])):
        with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: loss='low' in the train record of step 1 is no"):
            use()


@pytest.mark.slow
def test_records_and_checkpoints_that_do_not_belong_together_are_noted(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither is a reason to stop, and each is a gap in the curve that somebody will wonder about."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    train(str(run), quiet=True)
    assert "lacks" not in (told := capsys.readouterr().out) and "begins again" not in told
    whole = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(whole[:2]))
    train(str(run), quiet=True)
    ends = f"{run}/metrics.jsonl ends at step 1, the checkpoint is of step 2: the curve lacks the steps between"
    assert ends in capsys.readouterr().out.splitlines()
    (run / "metrics.jsonl").unlink()
    train(str(run), quiet=True)
    assert ends.replace("step 1,", "step 0,") in capsys.readouterr().out.splitlines()
    (run / "metrics.jsonl").write_text("".join(whole))
    shutil.rmtree(run / "checkpoints")
    train(str(run), quiet=True)
    begins = f"{run} tells of 2 steps but has no checkpoint of them: training begins again"
    assert begins in capsys.readouterr().out.splitlines()
    assert curve(run) == curve(finished)


def test_a_run_of_before_families_had_their_own_keys_goes_on(text: Path, tmp_path: Path) -> None:
    """Along the same curve, though its configuration has the keys that a GPT-2 no longer has."""
    run, words = tmp_path / "run", [*SMALL, f"data.train={text / 'set'}", "save.every=1"]
    train("gpt-tiny", words, run, quiet=True)
    whole, config = curve(run), (run / "config.toml").read_text()

    shutil.rmtree(max((run / "checkpoints").glob("step-*")))
    former = 'segments = 0\nhead = ""\nclasses = 0\ninit_std = '
    (run / "config.toml").write_text(config.replace("init_std = ", former))
    train("gpt-tiny", words, run, quiet=True)
    assert curve(run) == whole and (run / "config.toml").read_text() == config


def test_a_bert_without_a_preset_is_a_bert() -> None:
    """The family's own form lies under the explicit keys."""
    model = recipe.load("gpt-tiny", ["model.family=bert", "model.layers=2"]).model.model_dump()
    assert (model["gelu"], model["segments"], model["norm_first"], model["layers"]) == ("erf", 2, False, 2)


@pytest.mark.slow
def test_scores_are_per_byte_and_word_of_the_text(text: Path, tmp_path: Path) -> None:
    """End-of-text tokens are no text: the whole set has the bytes and words of its file, but for line ends."""
    run = tmp_path / "run"
    train("gpt-tiny", [*SMALL, f"data.train={text / 'set'}"], run, quiet=True)
    whole = score(run, data=str(text / "set")).values
    written = (text / "text.txt").read_text()
    lost = 17 * 20  # at most the first token and the tail shorter than a sequence, and their bytes
    assert 0 <= len(written.replace("\n", "").encode()) - whole["bytes"] < lost
    assert 0 <= len(written.split()) - whole["words"] < 40
    held_out, test = score(run).values, score(run, part=2).values
    assert held_out["tokens"] < whole["tokens"] / 2 and held_out["bytes"] != test["bytes"]


@pytest.mark.slow
def test_a_set_of_another_tokenizer_of_the_same_size(text: Path, tmp_path: Path) -> None:
    """Tokenizers are compared, not their sizes."""
    run = tmp_path / "run"
    train("gpt-tiny", [*SMALL, f"data.train={text / 'set'}"], run, quiet=True)
    other = json.loads((run / "tokenizer.json").read_text())
    vocab = other["model"]["vocab"]
    vocab["!"], vocab["?"] = vocab["?"], vocab["!"]
    (tmp_path / "other.json").write_text(json.dumps(other))
    options = PrepareOptions(str(tmp_path / "other.json"), "line", workers=1)
    prepare([str(text / "text.txt")], str(tmp_path / "other"), options)
    with pytest.raises(InputError, match="tokenizer"):
        score(run, data=str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["layout.pp=64"], "layout.pp=64 makes 64 stages"),
        (["layout.tp=3"], "layout.tp=3 does not divide model.heads"),
        (["layout.cp=2", "data.sequence=63"], r"is no multiple of 4 \(2 × layout.cp=2 equal parts\); use 60$"),
    ],
)
def test_a_layout_that_cannot_be_is_refused_before_processes_start(words: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        processes_here("gpt-tiny", words, None)


def test_a_run_that_is_not_there_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^runs/gone is neither a recipe nor a TOML file"):
        train("runs/gone", [], None, quiet=True)
