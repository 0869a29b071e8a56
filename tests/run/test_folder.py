"""The run folder: made whole, opened only when it is one, trained in by one process."""

import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from phalanx import durable, recipe
from phalanx.errors import InputError
from phalanx.models.family import configured
from phalanx.run.folder import RunFolder, gave_way
from phalanx.run.import_record import ImportRecord

HOLD = """
import sys, time
from phalanx.run.folder import RunFolder
with RunFolder.open(sys.argv[1]).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_create_then_open(tmp_path: Path) -> None:
    (source := tmp_path / "mine.json").write_text("{}")
    config = recipe.load("gpt-tiny", ["train.steps=7"])
    RunFolder.create(tmp_path / "a" / "run", config, source.read_text())
    folder = RunFolder.open(tmp_path / "a" / "run")
    assert folder.config() == config
    assert folder.tokenizer.read_text() == "{}"
    assert {p.name for p in folder.path.iterdir()} == {"checkpoints", "config.toml", "data.json", "tokenizer.json"}


def test_a_configuration_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    """Wherever the cut is: what is missing would be taken for the defaults. Those that were written before there was a
    line at the end are whole when they have all keys.
    """
    config = recipe.load("gpt-tiny", ["log.print_every=25"])
    folder = RunFolder.create(tmp_path / "run", config)
    text = folder.config_file.read_text()
    keys = text.index("print_every = 25") + len("print_every = 25")
    for cut in [*range(199, keys, 199), keys - 1, keys]:
        folder.config_file.write_text(text[:cut])
        with pytest.raises(InputError, match=rf"^{folder.config_file} is cut off .* put the whole file back"):
            RunFolder.open(folder.path)
        with pytest.raises(InputError, match="is cut off"):
            RunFolder(folder.path).config()
    for whole in (text, text[: keys + 1], text + "# a note of mine\n"):
        folder.config_file.write_text(whole)
        assert RunFolder.open(folder.path).config() == config


@pytest.mark.parametrize(
    ("damage", "said"),
    [(lambda text: b"", "is empty; put the whole file back"), (lambda text: b"\n \n", "is empty"),
     (lambda text: text.encode("utf-16"), r"is not text in UTF-8 \(is it in UTF-16\?\); save it as UTF-8"),
     (lambda text: text.encode("utf-16-be"), "is not text"), (lambda text: text.encode("utf-32"), "is not text"),
     (lambda text: bytes(len(text)), "is not text"), (lambda text: text.encode("utf-8-sig"), "")],
)  # fmt: skip
def test_a_configuration_in_another_encoding(tmp_path: Path, damage: Callable[[str], bytes], said: str) -> None:
    """It is not called cut off; a mark at the beginning, as editors leave it, is no fault."""
    config = recipe.load("gpt-tiny")
    folder = RunFolder.create(tmp_path / "run", config)
    folder.config_file.write_bytes(damage(folder.config_file.read_text()))
    with pytest.raises(InputError, match=rf"^{folder.config_file} {said}") if said else nullcontext():
        assert RunFolder.open(folder.path).config() == config


@pytest.mark.parametrize(
    "damage", ['{"begin": -4}', '{"begin": true}', '{"ends": ["2"]}', '{"ends": [1e30]}', "[]", ""]
)
def test_a_damaged_record_of_an_import_is_told(tmp_path: Path, damage: str) -> None:
    (tmp_path / "import.json").write_text(damage)
    with pytest.raises(InputError, match=rf"^{tmp_path}/import\.json is damaged; import the model again$"):
        ImportRecord.read(RunFolder(tmp_path))


FORMER = Path(__file__).parent / "former"  # configurations of runs, written when all families had the same keys


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_a_run_of_before_families_had_their_own_keys_is_opened(tmp_path: Path, family: str) -> None:
    """What it says of another family's keys is nothing, and is written no more."""
    (tmp_path / "config.toml").write_text(text := (FORMER / f"{family}.toml").read_text())
    config = RunFolder.open(tmp_path).config()
    sizes = {"layers": 4, "hidden": 192, "heads": 4, "ffn": 768, "positions": 256, "vocab": 50257}
    if family == "bert":
        sizes |= {"norm_first": True, "gelu": "erf", "segments": 2, "positions": 128, "vocab": 30522}
    assert config.model == configured(family=family, **sizes)

    RunFolder(tmp_path).write_config(config)
    assert RunFolder.open(tmp_path).config() == config
    kept = [line for line in (tmp_path / "config.toml").read_text().splitlines() if " = " in line]
    lost = [line for line in text.splitlines() if " = " in line and line not in kept]
    assert lost == ([] if family == "bert" else ["segments = 0", 'head = ""', "classes = 0"])


def test_a_run_of_before_that_used_another_family_s_key_is_refused(tmp_path: Path) -> None:
    text = (FORMER / "gpt2.toml").read_text()
    for line, said in ("segments = 2", "model.segments is a key"), ('head = "classes"', "model.head is a key"):
        key = line.partition(" ")[0]
        (tmp_path / "config.toml").write_text(re.sub(rf"^{key} = .*$", line, text, flags=re.MULTILINE))
        with pytest.raises(InputError, match=f"^{said} of model.family=bert, and gpt2 has none"):
            RunFolder.open(tmp_path).config()


def test_what_is_no_run_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in tmp_path, tmp_path / "absent", tmp_path / "file":
        with pytest.raises(InputError, match=str(path)):
            RunFolder.open(path)


def test_create_takes_no_place_that_is_taken(tmp_path: Path) -> None:
    config = recipe.load("gpt-tiny")
    RunFolder.create(tmp_path / "run", config)
    with pytest.raises(InputError, match="holds a run already"):
        RunFolder.create(tmp_path / "run", config)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make a run folder"):
        RunFolder.create(tmp_path / "file" / "run", config)


def test_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", recipe.load("gpt-tiny"))
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder.path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=rf"{folder.path} is in use by process {holder.pid};"), folder.lock():
            pass
    finally:
        holder.kill()  # no chance to clean up
        holder.wait()
    for _ in range(2):  # free again, and freed at the end of the block
        with folder.lock():
            pass


def test_the_lock_makes_the_folder(tmp_path: Path) -> None:
    """So that it is held before there is anything to hold, or it is told why that cannot be."""
    with RunFolder(tmp_path / "a" / "run").lock():
        assert [path.name for path in (tmp_path / "a" / "run").iterdir()] == ["lock"]
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="cannot make a run folder: File exists"),
        RunFolder(tmp_path / "file").lock(),
    ):
        pass


def test_a_folder_of_other_things_is_not_trained_in(tmp_path: Path) -> None:
    """Their names are the user's; what a start that failed has left there is ours."""
    for name in ("lock", "data.json", "tokenizer.json.partial"):
        (tmp_path / name).write_text("")
    with RunFolder(tmp_path).lock():
        pass
    (tmp_path / "novel.txt").write_text("Once")
    with pytest.raises(InputError, match=r"holds no run but novel\.txt; give a new folder"), RunFolder(tmp_path).lock():
        pass


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    durable.write(tmp_path / "file", b"old")

    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        durable.write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_checkpoints_without_a_configuration_are_not_continued(tmp_path: Path) -> None:
    """They were made under a configuration that is lost: another would go on with their weights."""
    (tmp_path / "run" / "checkpoints" / "step-0000005").mkdir(parents=True)
    with pytest.raises(InputError, match=r"run holds checkpoints but no config\.toml .* put that file back"):
        RunFolder.create(tmp_path / "run", recipe.load("gpt-tiny"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoints"]


def test_a_run_that_saved_nothing_makes_room(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", recipe.load("gpt-tiny"))
    folder.metrics.write_text("")
    folder.tensorboard.mkdir()
    folder.discard()
    assert sorted(path.name for path in folder.path.iterdir()) == ["checkpoints"]
    folder = RunFolder.create(tmp_path / "run", recipe.load("gpt-tiny"))
    (folder.checkpoints / "step-0000005").mkdir()
    folder.discard()
    assert folder.exists, "what saved something stays"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('task = "clm"\n[model]\nlayers = 4\nhidden = 192\nffn = 0\nvocab = 0\n', []),
        ("[train]\nsteps = 3\n", []),
        (
            "[model]\nlayers = 2\ndropout = 0\nhidden = 192\n",
            ["model.layers=2 (4 there)", "model.dropout=0 (0.1 there)"],
        ),
        (
            'task = "mlm"\n[model]\nfamily = "llama"\nlayers = 4\nwindow = 8\n',
            ['task="mlm" ("clm" there)', 'model.family="llama" ("gpt2" there)', "model.window=8"],
        ),
        ('[model]\npreset = "124m"\nlayers = 4\n', ['model.preset="124m"']),
        ('[model]\npreset = "no"\nwrong = 1\n', ["model.wrong=1"]),
    ],
)
def test_what_of_a_recipe_gives_way_to_the_model_of_a_run(tmp_path: Path, content: str, told: list[str]) -> None:
    run = RunFolder.create(tmp_path / "run", recipe.load("gpt-tiny"))
    (file := tmp_path / "q.toml").write_text(content)
    line = f"the model is that of {run.path}; of {file} gave way: {', '.join(told)}"
    assert gave_way(str(file), str(run.path)) == (line if told else "")
    assert gave_way(str(run.path), str(run.path)) == ""
