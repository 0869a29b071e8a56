"""Data sets of the hub by name: the files of a split, by the README or by their names, here once and offline."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from phalanx.data import hub_datasets
from phalanx.data.inputs import find_files
from phalanx.data.prepare import PrepareOptions, prepare
from phalanx.errors import InputError, Resumable
from tests.convert.hub import MAIN, Hub, Repository, hub_of

pytest.importorskip("huggingface_hub")


def line(name: str) -> bytes:
    """The content of a file."""
    return b'{"text": "the only line of %b"}\n' % name.encode()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("PHALANX_CACHE", str(tmp_path / "ours"))
    with hub_of(monkeypatch, tmp_path / "hub") as hub:
        yield hub


def add(hub: Hub, readme: str, *names: str, **named: Any) -> str:
    """Put a data set org/set at the hub, with these files beside its README. Returns the commit."""
    repository = hub.repositories["org/set"] = Repository(**named)
    return repository.commit({"README.md": readme.encode(), **{name: line(name) for name in names}}, MAIN)


def names_of(name: str, split: str = "") -> list[str]:
    """The files of a split, as they are called at the hub."""
    return [str(file).split("/snapshots/", 1)[1].split("/", 1)[1] for file in find_files([name], split=split)]


CONFIGS = """---
license: mit
configs:
- config_name: plain
  data_files:
  - split: train
    path: "plain/train-*.jsonl"
  - split: test
    path: ["plain/test/**", "plain/more.jsonl"]
- config_name: fancy
  default: true
  data_files: "fancy/*.jsonl"
---
# A set
"""


def test_the_readme_says_which_files_are_a_split(hub: Hub) -> None:
    files = ("plain/train-0.jsonl", "plain/train-1.jsonl", "plain/test/deep/0.jsonl", "plain/more.jsonl")
    add(hub, CONFIGS, *files, "fancy/a.jsonl", "fancy/deep/b.jsonl")
    assert names_of("hf-dataset:org/set") == ["fancy/a.jsonl"]
    assert names_of("hf-dataset:org/set:plain") == ["plain/train-0.jsonl", "plain/train-1.jsonl"]
    assert names_of("hf-dataset:org/set:plain", "test") == ["plain/test/deep/0.jsonl", "plain/more.jsonl"]
    with pytest.raises(InputError, match=r"no split 'dev'; choose one with --split: train, test"):
        names_of("hf-dataset:org/set:plain", "dev")
    with pytest.raises(
        InputError, match=r"no configuration 'odd'; write one as hf-dataset:org/name:CONFIG: plain, fan"
    ):
        names_of("hf-dataset:org/set:odd")


@pytest.mark.parametrize(
    ("files", "split", "chosen"),
    [
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/dev-00000-of-00001.parquet"],
         "", [0, 1]),
        (["data/train-00000-of-00002.parquet", "data/dev-00000-of-00001-9f0e.parquet"], "dev", [1]),
        (["my_train.jsonl", "my_dev.jsonl", "LICENSE.txt"], "validation", [1]),
        (["test/0.txt.gz", "training/0.txt"], "test", [0]),
        (["b.txt", "a.jsonl", "dataset_infos.json", "picture.png"], "", [1, 0]),
    ],
)  # fmt: skip
def test_names_say_which_files_are_a_split(hub: Hub, files: list[str], split: str, chosen: list[int]) -> None:
    add(hub, "# No head", *files)
    assert names_of("hf-dataset:org/set", split) == [files[number] for number in chosen]


def test_it_is_prepared_once_downloaded_and_without_the_hub(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = add(hub, "", "train-0.jsonl", "train-1.jsonl", "test.jsonl")
    first = prepare(["hf-dataset:org/set"], str(tmp_path / "set"), PrepareOptions(workers=1))
    assert first.documents == 2 and f"/snapshots/{commit}/train-0.jsonl" in first.sources[0].path
    contents = [path for method, path, _ in hub.asked if method == "GET" and path.endswith(".jsonl")]
    assert len(contents) == 2 and not any("test.jsonl" in path for path in contents)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.asked.clear()
    again = prepare([f"hf-dataset:org/set@{MAIN}"], str(tmp_path / "set"), PrepareOptions(workers=1))
    assert again == first and not hub.asked
    with pytest.raises(Resumable, match=r"hf-dataset:org/set: the hub .* is not asked .*has not all of it"):
        names_of("hf-dataset:org/set", "test")  # not a part of it as if it were all
    with pytest.raises(Resumable, match=r"hf-dataset:org/other: the hub .* has not all of it"):
        names_of("hf-dataset:org/other")


def test_a_transfer_that_breaks_off_is_resumed(hub: Hub) -> None:
    add(hub, "", "train.jsonl")
    hub.cut["train.jsonl"] = 3
    assert [file.read_bytes() for file in map(Path, map(str, find_files(["hf-dataset:org/set"])))] == [
        line("train.jsonl")
    ]


@pytest.mark.parametrize(
    ("name", "files", "named", "told"),
    [
        ("hf-dataset:org/none", [], {}, r"has no data set org/none \(404\)"),
        ("hf-dataset:org/set@v9", ["a.txt"], {}, r"has org/set, but not the revision v9 \(404\)"),
        ("hf-dataset:org/set", ["a.txt"], {"gated": True}, "only to those who were granted access"),
        ("hf-dataset:org/set", ["a.png"], {}, "has no text, JSONL, Parquet or Arrow files"),
        ("hf-dataset:org/set:de", ["a.txt"], {}, "files under de/"),
        ("hf-dataset:org set", [], {}, "names no data set; write hf-dataset:org/name"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(
    hub: Hub, name: str, files: list[str], named: dict[str, Any], told: str
) -> None:
    add(hub, "", *files, **named)
    with pytest.raises(InputError, match=told) as caught:
        find_files([name])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("configs: [{config_name: a, data_files: 'x/*.jsonl'}]", r"names files 'x/\*\.jsonl', and it has none"),
        ("configs: [{config_name: a, data_files: [{split: train}]}]", "which are no paths"),
        ("configs: [{config_name: a, data_files: '*.csv'}]", r"t\.csv is of a kind that is not read"),
        ("configs: [", r"README\.md cannot be read"),
    ],
)
def test_readmes_that_will_not_do(hub: Hub, head: str, told: str) -> None:
    add(hub, f"---\n{head}\n---\n", "t.csv")
    with pytest.raises(InputError, match=told):
        find_files(["hf-dataset:org/set"])


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_datasets, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"needs the package huggingface_hub: pip install phalanx\[hub\]"):
        find_files(["hf-dataset:org/set"])


def test_a_note_that_is_damaged(hub: Hub, tmp_path: Path) -> None:
    commit = add(hub, "", "a.txt")
    names_of("hf-dataset:org/set")
    note = tmp_path / "ours" / "hub" / "org--set" / f"{commit}.json"
    assert json.loads(note.read_text()) == ["README.md", "a.txt"]
    note.write_text("[")
    with pytest.raises(InputError, match="delete it, and the hub is asked again"):
        names_of("hf-dataset:org/set")
