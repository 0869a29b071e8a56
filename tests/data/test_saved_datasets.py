"""Folders saved by `datasets`, and Arrow files alone: the same tokens as from the same texts in JSONL."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from phalanx.data import prepare as module
from phalanx.data.inputs import find_files
from phalanx.data.prepare import PrepareOptions, prepare
from phalanx.errors import InputError

pa = pytest.importorskip("pyarrow")
OPTIONS = PrepareOptions(workers=1)
TEXTS = [f"Sentence {number} of a book." for number in range(900)]


def write_arrow(path: Path, texts: list[str], name: str = "text", rows: int = 100) -> None:
    """Write a file as `datasets` does: a stream of batches."""
    table = pa.table({"id": range(len(texts)), name: texts})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


def save(folder: Path, texts: list[str], split: str | None = "train", files: int = 2) -> Path:
    """Write what `Dataset.save_to_disk` writes."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05d}-of-{files:05d}.arrow" for number in range(files)]
    for number, name in enumerate(names):
        write_arrow(folder / name, texts[number * len(texts) // files : (number + 1) * len(texts) // files])
    state = {"_data_files": [{"filename": name} for name in names], "_split": split, "_fingerprint": "f"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {"text": {"dtype": "string"}}}))
    return folder


def same_set(first: Path, second: Path) -> bool:
    return all(Path(f"{first}{s}").read_bytes() == Path(f"{second}{s}").read_bytes() for s in (".bin", ".idx"))


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    """The set of the texts as JSONL."""
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    prepare([str(tmp_path / "texts.jsonl")], str(tmp_path / "jsonl"), OPTIONS)
    return tmp_path / "jsonl"


def test_a_saved_data_set(tmp_path: Path, jsonl: Path) -> None:
    """Its files in the order of state.json, and none of the JSON beside them."""
    folder = save(tmp_path / "saved", TEXTS)
    prepare([str(folder)], str(tmp_path / "set"), OPTIONS)
    assert same_set(jsonl, tmp_path / "set")


def test_the_files_of_datasets_itself(tmp_path: Path, jsonl: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"text": TEXTS[::-1]})
    data = data.select(range(len(TEXTS) - 1, -1, -1))  # an index over the rows, which saving applies
    datasets.DatasetDict({"train": data, "test": data.select([1])}).save_to_disk(str(tmp_path / "dict"))
    prepare([str(tmp_path / "dict")], str(tmp_path / "set"), OPTIONS)
    assert same_set(jsonl, tmp_path / "set")
    assert prepare([str(tmp_path / "dict")], str(tmp_path / "test"), replace(OPTIONS, split="test")).documents == 1


def test_splits(tmp_path: Path) -> None:
    folder = tmp_path / "dict"
    save(folder / "train", TEXTS[:4])
    save(folder / "test", TEXTS[4:6], "test")
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert [file.parent.name for file in find_files([str(folder)])] == ["train", "train"]
    assert [file.parent.name for file in find_files([str(folder)], split="test")] == ["test", "test"]
    for inputs, split, told in [
        ([str(folder)], "dev", "has no split 'dev'; choose one with --split: train, test"),
        ([str(folder / "test")], "train", "it is test alone; leave out --split"),
        ([str(folder / "test" / "state.json")], "test", "--split test: none of the inputs has splits"),
    ]:
        with pytest.raises(InputError, match=told):
            find_files(inputs, split=split)

    (folder / "test" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(InputError, match=r"data-00001-of-00002\.arrow is missing, which state\.json beside it names"):
        find_files([str(folder)], split="test")
    state = json.loads((folder / "train" / "state.json").read_text())
    (folder / "train" / "state.json").write_text(json.dumps(state | {"_indices_data_files": [{"filename": "i"}]}))
    with pytest.raises(InputError, match="selects rows of its files by an index"):
        find_files([str(folder)])
    (folder / "dataset_dict.json").write_text("[")
    with pytest.raises(InputError, match=r"dataset_dict\.json cannot be read"):
        find_files([str(folder)])


def test_it_goes_on_in_the_middle_of_a_file(tmp_path: Path, jsonl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = save(tmp_path / "saved", TEXTS), str(tmp_path / "set")
    monkeypatch.setattr(module, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr("phalanx.data.chunks.CHUNK", 2000)
    meter, shown = module.Meter.show, []

    def interrupt(self: module.Meter, read: int, text: int) -> None:
        shown.append(read)
        meter(self, read, text)
        if len(shown) == 9:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.Meter, "show", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare([str(folder)], out, OPTIONS)
    assert shown == sorted(shown)
    prepare([str(folder)], out, OPTIONS)
    assert same_set(jsonl, tmp_path / "set")


@pytest.mark.parametrize(
    ("name", "key", "told"),
    [
        ("cut.arrow", "text", r"cut\.arrow is no whole Arrow file"),
        ("empty.arrow", "text", r"empty\.arrow is no whole Arrow file"),
        ("good.arrow", "body", r"has no column 'body'; it has id, text: choose one with --key"),
        ("good.arrow", "id", r"holds int64, not text"),
    ],
)
def test_arrow_files_that_cannot_be_read(tmp_path: Path, name: str, key: str, told: str) -> None:
    write_arrow(tmp_path / "good.arrow", TEXTS)
    (tmp_path / "empty.arrow").touch()
    shutil.copy(tmp_path / "good.arrow", tmp_path / "cut.arrow")
    with (tmp_path / "cut.arrow").open("r+b") as file:
        file.truncate(9000)
    with pytest.raises(InputError, match=told):
        prepare([str(tmp_path / name)], str(tmp_path / "set"), replace(OPTIONS, key=key))


def test_an_arrow_file_that_is_packed(tmp_path: Path, jsonl: Path) -> None:
    import gzip

    write_arrow(tmp_path / "a.arrow", TEXTS)
    (tmp_path / "a.arrow.gz").write_bytes(gzip.compress((tmp_path / "a.arrow").read_bytes()))
    prepare([str(tmp_path / "a.arrow.gz")], str(tmp_path / "set"), OPTIONS)
    assert same_set(jsonl, tmp_path / "set")
