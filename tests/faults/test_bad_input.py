"""Bad input at the command line: one clear line that names the thing and the way out, exit code 2, nothing lost."""

import errno
import fcntl
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phalanx import cli, durable
from phalanx.run.checkpoint import Checkpointer, Restored

MODEL = ["model.layers=1", "model.hidden=32", "model.heads=2", "model.positions=32", "data.sequence=16"]
SHORT = ["train.steps=4", "train.batch=4", "train.eval_every=2", "train.compile=off", "save.every=1", "save.keep=3"]

Says = Callable[..., str]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, a tokenizer, a prepared set and a finished run."""
    folder = tmp_path_factory.mktemp("faults")
    text = folder / "text.txt"
    line = "The {}th time she looked at the sea, it was {} shades of grey."
    text.write_text("\n\n".join(line.format(n, n * 7 % 11) for n in range(80)))
    _phalanx("tokenizer", "train", text, "--out", folder / "small.json", "--vocab", 320)
    _phalanx("tokenizer", "train", text, "--out", folder / "other.json", "--vocab", 300)
    for name in ("small", "other"):
        words = ["--tokenizer", folder / f"{name}.json", "--document", "blank-line"]
        _phalanx("prepare", text, "--out", folder / name, *words)
    _phalanx("train", "gpt-tiny", *MODEL, *SHORT, f"data.train={folder / 'small'}", "--out", folder / "run")
    return folder


def _phalanx(*words: object) -> int:
    before, sys.argv = sys.argv, ["phalanx", *map(str, words)]
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Says:
    """Run a command that must end with exit code 2 and one line on stderr; the line."""

    def run(*words: object) -> str:
        capfd.readouterr()
        code = _phalanx(*words)
        errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("phalanx: ")]
        assert code == 2, errors
        assert len(errors) == 1
        assert "Traceback" not in errors[0]
        return errors[0]

    return run


def _train(work: Path, *more: object) -> list[object]:
    return ["train", "gpt-tiny", *MODEL, *SHORT, f"data.train={work / 'small'}", "--out", work / "new", *more]


def test_missing_and_empty_files(work: Path, refused: Says) -> None:
    """Input that is not there, and input with nothing in it."""
    absent = refused("prepare", work / "absent.txt", "--out", work / "x", "--tokenizer", "gpt2")
    assert "absent.txt" in absent
    (work / "empty.txt").write_text("")
    assert "empty.txt" in refused("prepare", work / "empty.txt", "--out", work / "x", "--tokenizer", "gpt2")
    assert not list(work.glob("x.*"))
    assert "absent" in refused("train", "gpt-tiny", f"data.train={work / 'absent'}", "--out", work / "new")
    assert "data.train" in refused("train", "gpt-tiny", "--out", work / "new")
    assert not (work / "new").exists()


def test_tokenizer_of_another_vocabulary(work: Path, refused: Says) -> None:
    """A set that another tokenizer made."""
    line = refused(*_train(work, f"data.tokenizer={work / 'other.json'}"))
    assert "300" in line and "304" in line
    line = refused(*_train(work, f"data.valid={work / 'other'}"))
    assert "other" in line and "small" in line
    assert "other" in refused("eval", work / "run", "--data", work / "other")
    assert "model.vocab" in refused(*_train(work, "model.vocab=200"))


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("train gpt-tiny data.train=WORK/small.bin --out WORK/new", "without .bin: WORK/small"),
        ("train gpt-tiny data.train=WORK/small.idx --out WORK/new", "without .idx: WORK/small"),
        ("train gpt-tiny data.train=WORK/text.txt --out WORK/new", "phalanx prepare WORK/text.txt --out WORK/text"),
        ("train gpt-tiny data.train=WORK/raw/ --out WORK/new", "phalanx prepare WORK/raw --out WORK/raw/PREFIX"),
        ("train gpt-tiny WORK/small --out WORK/new", "did you mean data.train=WORK/small?"),
        ("train data.train=WORK/small --out WORK/new", "a recipe comes first, as: phalanx train gpt-tiny data.train"),
        (
            "train gpt-tiny data.train=WORK/one --out WORK/new",
            "leaves none of the 1 document of WORK/one for training",
        ),
        ("train gpt-tiny data.train=WORK/one --out WORK/new", "--document blank-line"),
        ("train bert-tiny data.train=WORK/small --out WORK/new", "--kind wordpiece"),
        ("eval WORK/run --data WORK/text.txt", "--task perplexity"),
        ("generate WORK/run Once upon a time", 'in quotes: "Once upon a time"'),
        ("train WORK/run --resume", "the same command"),
    ],
)
def test_what_beginners_write_is_answered_with_what_to_write(work: Path, refused: Says, words: str, hint: str) -> None:
    (work / "raw").mkdir(exist_ok=True)
    if not (work / "one.bin").exists():
        _phalanx("prepare", work / "text.txt", "--out", work / "one", "--tokenizer", work / "small.json")
    assert hint.replace("WORK", str(work)) in refused(*words.replace("WORK", str(work)).split())
    assert not (work / "new").exists()


def test_truncated_bin(work: Path, refused: Says) -> None:
    """A .bin that ends before its index says."""
    for suffix in (".bin", ".idx", ".manifest.json", ".tokenizer.json"):
        (work / f"cut{suffix}").write_bytes((work / f"small{suffix}").read_bytes())
    whole = (work / "cut.bin").read_bytes()
    (work / "cut.bin").write_bytes(whole[:-100])
    assert "cut.bin" in refused("train", "gpt-tiny", f"data.train={work / 'cut'}", "--out", work / "new")
    assert "cut.bin" in refused("data", "show", work / "cut")


def test_tokens_beyond_the_vocabulary(work: Path, refused: Says) -> None:
    """File, document and token, whoever reads them first; and a .bin that its manifest's checksum contradicts."""
    for suffix in (".bin", ".idx", ".manifest.json", ".tokenizer.json"):
        (work / f"odd{suffix}").write_bytes((work / f"small{suffix}").read_bytes())
    told = json.loads((work / "odd.manifest.json").read_text())
    del told["written"]  # as in sets of earlier versions: only reading the tokens tells
    (work / "odd.manifest.json").write_text(json.dumps(told))
    np.memmap(work / "odd.bin", "<u2", "r+")[3] = 60_000
    for words in (["data", "show", work / "odd"], ["eval", work / "run", "--data", work / "odd"]):
        assert "odd.bin: document 0 holds the token 60000 (byte 6)" in refused(*words)
    train = ["train", "gpt-tiny", *MODEL, *SHORT, f"data.train={work / 'odd'}", "--out", work / "new"]
    assert "odd.bin is not as it was written" in refused(*train)
    (work / "odd.manifest.json").unlink()
    assert "document 0 holds the token 60000" in refused(*train, f"data.tokenizer={work / 'small.json'}")


def test_corrupted_checkpoints(work: Path, refused: Says, capfd: pytest.CaptureFixture[str]) -> None:
    """One bad checkpoint is passed over and named; when all are bad the run says so and touches nothing."""
    newest, *older = sorted((work / "run" / "checkpoints").glob("step-*"), reverse=True)
    originals = {}
    for path in (newest, *older):
        for file in path.glob("*.safetensors"):
            originals[file] = file.read_bytes()
    damaged = [file for file in originals if file.parent == newest]
    for file in damaged:
        file.write_bytes(originals[file][:-1] + b"?")
    assert _phalanx("generate", work / "run", "The", "--tokens", 2) == 0
    assert _phalanx("train", work / "run") == 0
    said = capfd.readouterr()
    assert newest.name in said.out + said.err
    for file, data in originals.items():
        if file.exists():
            file.write_bytes(data[:-1] + b"?")
    for file in (work / "run" / "checkpoints").glob("*/*.safetensors"):
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert "checkpoint" in refused("eval", work / "run")
    for file, data in originals.items():
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)


def test_disk_full_while_saving(work: Path, refused: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends with a line; what was saved before is whole and it continues."""
    run = work / "full"
    command = ["train", "gpt-tiny", *MODEL, *SHORT, f"data.train={work / 'small'}", "--out", run]
    rename, calls = durable.rename, []

    def full(*paths: Path) -> None:
        calls.append(paths)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device", str(paths[0]))
        rename(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "rename", full)
        assert "No space left" in refused(*command)
    assert _phalanx(*command) == 0
    assert (run / "checkpoints" / "step-0000004").is_dir()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["train.stepz=3"], "train.steps"),
        (["train.steps=-3"], "train.steps=-3"),
        (["model.dropout=1.5"], "model.dropout=1.5"),
        (["optim.schedule=cosin"], "cosine"),
        (["data.sequence=64"], "model.positions=32"),
        (["model.heads=5"], "model.heads=5"),
        (["optim.name=adamm"], "adamw"),
        (["task=clmm"], "clm"),
        (["model.preset=125m"], "124m"),
        (["data.sequence"], "section.key=value"),
        (["train.init=nowhere"], "nowhere"),
    ],
)
def test_unknown_keys_and_values_out_of_range(work: Path, refused: Says, words: list[str], named: str) -> None:
    """The key, the value and what would do."""
    assert named in refused(*_train(work, *words))
    assert not (work / "new").exists()


def test_prompt_longer_than_the_context(work: Path, refused: Says) -> None:
    """Both numbers are named."""
    assert "16" in refused("generate", work / "run", "sea " * 60)


def test_run_folder_in_use(work: Path, refused: Says) -> None:
    """The lock of another process is respected."""
    with (work / "run" / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "in use" in refused("train", work / "run")
    assert _phalanx("train", work / "run") == 0


def test_another_configuration_in_the_run_folder(work: Path, refused: Says) -> None:
    """A run is not continued with other settings."""
    command = _train(work, "optim.lr=0.5")
    command[command.index(work / "new")] = work / "run"
    line = refused(*command)
    assert "optim.lr=0.5" in line or "0.5" in line


def test_not_a_run(work: Path, refused: Says) -> None:
    """Folders and models of the wrong kind."""
    assert "no run folder" in refused("train", work)
    assert "not a folder" in refused("eval", work / "nowhere")
    assert "phalanx generate" in refused("fill", work / "run", "the [MASK] sea")


def test_files_that_may_not_be_read(work: Path, refused: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the operating system refuses is a line too."""

    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "books.txt")

    monkeypatch.setattr("phalanx.data.prepare.prepare", denied)
    assert "books.txt: Permission denied" in refused("prepare", "books.txt", "--out", "x", "--tokenizer", "gpt2")


def test_numbers_that_are_none(work: Path, refused: Says) -> None:
    """Infinity is no learning rate."""
    assert "optim.lr" in refused(*_train(work, "optim.lr=inf"))
    assert "precision.loss_scale" in refused(*_train(work, "precision.loss_scale=inf"))


def test_a_damaged_best_checkpoint_is_named(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Another one answers, and that is said."""
    checkpoints = work / "run" / "checkpoints"
    file = next((checkpoints / (checkpoints / "best").read_text().strip()).glob("model*.safetensors"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert _phalanx("generate", work / "run", "The", "--tokens", 2) == 0
    assert "damaged" in capfd.readouterr().err
    file.write_bytes(whole)


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.empty(10**14),
        lambda: torch.empty(10**12, 10**12),
        lambda: np.zeros(10**15),
        lambda: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
    ],
)
def test_models_that_do_not_fit(
    work: Path, refused: Says, monkeypatch: pytest.MonkeyPatch, error: Callable[[], Any]
) -> None:
    """Whoever says that there is no memory; and the corrected command may take the folder."""
    out = work / "large"
    command = ["train", "gpt-tiny", *MODEL, *SHORT, f"data.train={work / 'small'}", "--out", out]
    with monkeypatch.context() as patch:
        patch.setattr("phalanx.tasks.run.Trainer", lambda *_: [*error()])
        assert "out of memory; a smaller model" in refused(*command, "model.ffn=999")
    assert _phalanx(*command) == 0
    shutil.rmtree(out)


def test_defects_keep_their_traceback(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not the user's to mend is not one line."""

    def broken(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("phalanx.infer.decoder_model.DecoderModel.generate", broken)
    with pytest.raises(RuntimeError):
        _phalanx("generate", work / "run", "The")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["model.hidden=100000000000000000000"], "model.hidden"),
        (["model.family=os:path"], "os:path"),
        (["model.family=builtins:print"], "TASK"),
        (["model.family=:GPT"], "cannot be loaded"),
        (["task=os:path"], "os:path"),
        (["optim.name=os:path"], "os:path"),
        (["data.split=0.999,0.001,0", "data.sequence=32"], "data.split"),
        (["task=mlm", "model.family=bert", "model.segments=1"], "model.segments=1"),
    ],
)
def test_values_that_no_run_can_have(work: Path, refused: Says, words: list[str], named: str) -> None:
    """As above, found by look-up, in the data or by two keys together."""
    assert named in refused(*_train(work, *words))
    assert not (work / "new").exists()


def test_texts_that_are_not_utf8(work: Path, refused: Says) -> None:
    """Which a shell may give."""
    assert "not UTF-8" in refused("generate", work / "run", "caf\udce9")
    assert "not UTF-8" in refused("fill", work / "run", "caf\udce9 [MASK]")


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_of_more_than_64_bits(work: Path, seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    """The command line itself refuses them."""
    assert _phalanx("generate", work / "run", "The", "--seed", seed) == 2
    assert "--seed" in capfd.readouterr().err


def test_weights_that_are_not_finite(work: Path, refused: Says, monkeypatch: pytest.MonkeyPatch) -> None:
    """They give no text, whichever way it is chosen."""
    load = Checkpointer.load_weights

    def spoiled(self: Checkpointer, model: dict[str, torch.Tensor], *more: Any, **named: Any) -> Restored:
        restored = load(self, model, *more, **named)
        model["transformer.norm.weight"].fill_(torch.nan)
        return restored

    monkeypatch.setattr(Checkpointer, "load_weights", spoiled)
    for more in ([], ["--greedy"]):
        assert "are not finite" in refused("generate", work / "run", "The", *more)


def test_reports_of_what_is_no_number(work: Path, refused: Says) -> None:
    """A record that somebody changed, and a page with the picture's name."""
    (run := work / "changed").mkdir()
    for value in ('"low"', "[1]", "{}"):
        (run / "metrics.jsonl").write_text(f'{{"step": 1, "kind": "train", "loss": {value}}}\n')
        assert "the train record of step 1 is no number" in refused("report", run, "--out", work / "x.html")
    assert "x.html" in refused("report", work / "run", "--out", work / "x.png")
    assert not (work / "x.html").exists() and not (work / "x.png").exists()


@pytest.mark.parametrize(
    ("verb", "inside", "then"),
    [
        (["eval", "run"], "phalanx.tasks.score.score", "starts anew"),
        (["import", "hf:x", "--out", "y"], "phalanx.convert.sources.import_source", "starts anew"),
        (["export", "run", "y"], "phalanx.convert.huggingface.export_run", "starts anew"),
        (["prepare", "x", "--out", "y", "--tokenizer", "gpt2"], "phalanx.data.prepare.prepare", "does what is left"),
    ],
)
def test_interrupted(
    work: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: list[str], inside: str,
    then: str,
) -> None:  # fmt: skip
    """Ctrl-C: one line that says how it goes on."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inside, interrupted)
    monkeypatch.chdir(work)
    assert _phalanx(*verb) == 130
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("phalanx: interrupted; ") and line.endswith(f"the same command {then}")
