"""Models by name: what is asked of the hub, what is kept, and how a name that leads nowhere is told."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from phalanx.cli import main
from phalanx.cli.app import app
from phalanx.cli.tune import _brought
from phalanx.convert import megatron
from phalanx.convert.huggingface import import_folder
from phalanx.errors import InputError
from phalanx.infer import brought, load
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from phalanx.run.import_record import ImportRecord, ModelSource
from phalanx.serve.server import specs
from tests.convert.folders import write_folder
from tests.convert.hub import TOKEN, Hub, hub_of

NEEDED = ["config.json", "model.safetensors", "tokenizer.json"]
OTHERS = ("pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "onnx/model.onnx", "onnx/config.json", "README.md")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2's folder, with the files beside it that other programs' models have."""
    made = tmp_path_factory.mktemp("folder") / "gpt2"
    write_folder(made, "gpt2")
    (made / "onnx").mkdir()
    for name in OTHERS:
        (made / name).write_bytes(b"not for us")
    return made


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub, asked from a folder where nothing is."""
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    with hub_of(monkeypatch, tmp_path / "cache") as served:
        yield served


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def weights(run: Path) -> dict[str, torch.Tensor]:
    stored = Checkpointer(RunFolder(run)).weights(best=True)
    return {name: stored[name] for name in stored}


def test_a_model_is_imported_by_its_name(hub: Hub, folder: Path, tmp_path: Path) -> None:
    commit = hub.add("acme/tiny", folder)
    result = CliRunner().invoke(app, ["import", "hf:acme/tiny", "--out", "run"], catch_exceptions=False)
    assert result.exit_code == 0, result.output

    assert sorted(hub.files()) == NEEDED
    record = ImportRecord.read(RunFolder(Path("run")))
    assert (record.source, record.commit) == ("hf:acme/tiny", commit)
    import_folder(folder, tmp_path / "again")
    ours, theirs = weights(Path("run")), weights(tmp_path / "again")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("away", [offline, lambda _: None], ids=["offline", "no network"])
def test_what_was_downloaded_is_used_without_a_network(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, away: Callable[[pytest.MonkeyPatch], None]
) -> None:
    hub.add("acme/tiny", folder)
    text = "".join(load("hf:acme/tiny", "torch").generate("abc"))  # type: ignore[union-attr]
    hub.asked.clear()
    away(monkeypatch)
    hub.close()
    assert "".join(load("hf:acme/tiny", "torch").generate("abc")) == text  # type: ignore[union-attr]
    assert not hub.asked


def test_a_model_that_is_there_is_not_downloaded_again(hub: Hub, folder: Path) -> None:
    hub.add("acme/tiny", folder)
    first = ModelSource.of("hf:acme/tiny").local()
    hub.asked.clear()
    assert ModelSource.of("hf:acme/tiny").local() == first
    assert hub.files() == [] and len(hub.asked) == 1  # whether it is still the newest


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: Hub, folder: Path) -> None:
    commit, facts = hub.add("acme/tiny", folder), json.loads((folder / "config.json").read_text())
    files = {name: (folder / name).read_bytes() for name in NEEDED}
    changed = {**files, "config.json": json.dumps(facts | {"resid_pdrop": 0.25}).encode()}
    other = hub.repositories["acme/tiny"].commit(changed, "v2", "refs/pr/1")
    for name, meant in {"": commit, "@main": commit, f"@{commit}": commit, "@v2": other, "@refs/pr/1": other}.items():
        found = ModelSource.of(f"hf:acme/tiny{name}").local()
        assert found.name == meant
        assert ("resid_pdrop" in (found / "config.json").read_text()) and (found / "model.safetensors").is_file()
    assert hub.files().count("model.safetensors") == 1  # of both commits one file, by its ETag
    assert json.loads((found / "config.json").read_text())["resid_pdrop"] == 0.25


def test_a_transfer_that_breaks_off_is_resumed(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("acme/tiny", folder)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 250)
    hub.cut["model.safetensors"] = 1000
    found = ModelSource.of("hf:acme/tiny").local()
    ranges = [part for method, path, part in hub.asked if method == "GET" and path.endswith("model.safetensors")]
    assert ranges == ["", "bytes=1000-"]
    assert (found / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_a_transfer_is_interrupted_at_once(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when the file is whole, as in a thread, for which the process would wait."""
    from huggingface_hub import file_download

    hub.add("acme/tiny", folder)
    get = file_download.http_get

    def interrupted(url: str, file: BinaryIO, **named: Any) -> None:
        if url.endswith("model.safetensors"):
            assert threading.current_thread() is threading.main_thread()
            file.write(b"a part")
            raise KeyboardInterrupt
        get(url, file, **named)

    monkeypatch.setattr(file_download, "http_get", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ModelSource.of("hf:acme/tiny").local()
    monkeypatch.setattr(file_download, "http_get", get)
    found = ModelSource.of("hf:acme/tiny").local()
    assert (found / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin"])
def test_weights_in_pieces_are_those_of_the_index(hub: Hub, folder: Path, tmp_path: Path, form: str) -> None:
    repository, state = tmp_path / "repository", load_file(folder / "model.safetensors")
    repository.mkdir()
    stem, suffix = form.split(".")
    halves = {f"{stem}-{part}-of-00002.{suffix}": names for part, names in (("1", [*state][:5]), ("2", [*state][5:]))}
    for file, names in halves.items():
        part = {name: state[name] for name in names}
        save_file(part, repository / file) if suffix == "safetensors" else torch.save(part, repository / file)
    index = {"weight_map": {name: file for file, names in halves.items() for name in names}}
    (repository / f"{form}.index.json").write_text(json.dumps(index))
    for name in ("config.json", "tokenizer.json"):
        (repository / name).write_bytes((folder / name).read_bytes())
    (repository / "other.safetensors").write_bytes(b"not for us")

    hub.add("acme/large", repository)
    found = ModelSource.of("hf:acme/large").local()
    assert sorted(hub.files()) == sorted(["config.json", "tokenizer.json", f"{form}.index.json", *halves])
    import_folder(found, tmp_path / "run")


def test_the_settings_of_sentence_transformers_come_too(hub: Hub, tmp_path: Path) -> None:
    write_folder(tmp_path / "bert", "bert")
    (tmp_path / "bert" / "1_Pooling").mkdir()
    kept = {"modules.json": "[]", "sentence_bert_config.json": "{}", "1_Pooling/config.json": "{}", "vocab.txt": "a"}
    for name, text in kept.items():
        (tmp_path / "bert" / name).write_text(text)
    hub.add("acme/sentences", tmp_path / "bert")
    found = ModelSource.of("hf:acme/sentences").local()
    assert all((found / name).is_file() for name in kept)


def test_a_token_opens_what_is_private(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("acme/secret", folder, private=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert (ModelSource.of("hf:acme/secret").local() / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("acme/none", "has no model acme/none (404); if it has, and it is private, set HF_TOKEN"),
        ("acme/secret", "has no model acme/secret (401); if it has, and it is private, set HF_TOKEN"),
        (
            "acme/gated",
            "gives acme/gated only to those who were granted access; ask for it on its page, and set HF_TOKEN",
        ),
        ("acme/closed", "refuses it (403; set HF_TOKEN"),
        ("acme/down", "answers 503, and the cache"),
        ("acme/tiny@v9", "has acme/tiny, but not the revision v9 (404)"),
    ],
)
def test_what_the_hub_does_not_give_is_one_line(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    for other, settings in {
        "secret": {"private": True}, "gated": {"gated": True}, "closed": {"status": 403}, "down": {"status": 503},
        "tiny": {},
    }.items():  # fmt: skip
        hub.add(f"acme/{other}", folder, **settings)
    line = refused(monkeypatch, capsys, f"import hf:{name} --out run")
    assert line.startswith(f"phalanx: hf:{name}: there is no folder {name} here, and the hub ({hub.address}) ")
    assert said in line
    assert not Path("run").exists()


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str) -> str:
    """The one line of a command that ends with code 2."""
    monkeypatch.setattr("sys.argv", ["phalanx", *command.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1, error
    return error


def test_without_a_network_and_a_copy_it_is_one_line(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hub.close()
    line = refused(monkeypatch, capsys, "import hf:acme/tiny --out run")
    assert f"the hub ({hub.address}) cannot be reached (" in line and "Connection refused" in line
    assert f"and the cache {tmp_path / 'cache'} has no copy of it" in line
    offline(monkeypatch)
    line = refused(monkeypatch, capsys, "import hf:acme/tiny --out run")
    assert f"the hub ({hub.address}) is not asked (HF_HUB_OFFLINE is set), and the cache" in line


def test_a_part_of_a_copy_is_not_taken_for_all(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("acme/tiny", folder)
    ModelSource.of("hf:acme/tiny").local(weights=False)
    assert sorted(hub.files()) == ["config.json", "tokenizer.json"]
    offline(monkeypatch)
    with pytest.raises(InputError, match="has only a part of it"):
        ModelSource.of("hf:acme/tiny").local()


@pytest.mark.parametrize("name", ["gpt2", "models/none/gpt2", "./none", "../none/gpt2", "/none/gpt2", "acme/tiny@"])
def test_what_cannot_be_a_name_is_not_asked_for(hub: Hub, name: str) -> None:
    with pytest.raises(InputError, match=r"there is no folder .* here; a model of the .* hub is named hf:org/name"):
        ModelSource.of(f"hf:{name}").local()
    assert not hub.asked


def test_a_folder_here_comes_first(hub: Hub, folder: Path) -> None:
    Path("acme/tiny").mkdir(parents=True)
    source = ModelSource.of("hf:acme/tiny")
    assert source.hub == "" and source.local() == Path("acme/tiny") and not hub.asked


def test_the_package_that_is_missing_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phalanx.run.hub_models.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"there is no folder acme/tiny here; .* install phalanx\[hub\]"):
        ModelSource.of("hf:acme/tiny").local()


def test_a_tuned_model_goes_on_without_the_hub(hub: Hub, folder: Path) -> None:
    """Its model was imported when it began; what the main branch is by now is not asked."""
    hub.add("acme/tiny", folder)
    out = Path("tuned")
    for _ in range(2):
        with _brought(ModelSource.of("hf:acme/tiny"), out) as model:
            assert RunFolder(Path(model)).exists
        hub.asked.clear()
    assert not hub.asked
    with (
        pytest.raises(InputError, match="was begun from hf:acme/tiny, not from hf:acme/tiny@v2"),
        _brought(ModelSource.of("hf:acme/tiny@v2"), out),
    ):
        pass


def test_a_server_serves_it_from_the_cache(hub: Hub, folder: Path, tmp_path: Path) -> None:
    commit = hub.add("acme/tiny", folder)
    (spec,) = specs(["hf:acme/tiny@main"], "auto", "fp32")
    assert spec.name == "tiny" and spec.source == f"hf:{tmp_path}/cache/models--acme--tiny/snapshots/{commit}"


@pytest.mark.parametrize("terminal", [False, True])
def test_the_download_is_shown_to_a_terminal(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    hub.add("acme/tiny", folder)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    ModelSource.of("hf:acme/tiny").local()
    said = capsys.readouterr().err
    assert "phalanx: downloaded hf:acme/tiny into " in said and ("100%" in said) == terminal
    ModelSource.of("hf:acme/tiny").local()
    assert capsys.readouterr().err == ""


def test_a_model_is_exported_by_its_name(hub: Hub, folder: Path) -> None:
    hub.add("acme/tiny", folder)
    result = CliRunner().invoke(app, ["export", "hf:acme/tiny", "out"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    ours, theirs = load_file("out/model.safetensors"), load_file(folder / "model.safetensors")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_an_export_that_is_refused_names_the_model(tmp_path: Path) -> None:
    write_folder(tmp_path / "bert", "bert")
    with pytest.raises(InputError) as refusal, brought(f"hf:{tmp_path}/bert") as run:
        megatron.export_run(run, tmp_path / "out")
    assert str(refusal.value).startswith(f"hf:{tmp_path}/bert: Megatron-LM has")


def test_a_model_without_weights_is_refused(hub: Hub, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "repository" / "model.gguf").write_bytes(b"not for us")
    hub.add("acme/gguf", tmp_path / "repository")
    with pytest.raises(InputError, match=r"the hub has neither model.safetensors nor pytorch_model.bin of it"):
        ModelSource.of("hf:acme/gguf").local()
