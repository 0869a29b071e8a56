"""Damaged, foreign and newer checkpoints: each is named, none is half loaded, none is unpickled."""

import errno
import json
import math
import os
import pickle
import random
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch

from phalanx.errors import InputError
from phalanx.run import storage
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from phalanx.strict_json import parse_json
from tests.run.states import fill_of, make_state


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.0.safetensors", "optimizer.0.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("harm", [_truncate, _flip, _flip, _flip, Path.unlink])
def test_damage_is_found_and_the_one_before_taken(folder: RunFolder, name: str, harm: Any) -> None:
    saver = Checkpointer(folder, asynchronous=False)
    saver.save(1, make_state(1), loss=1.0)
    saver.save(2, make_state(2), loss=0.5)
    harm(folder.checkpoints / "step-0000002" / name)
    for choice in {"best": False}, {"best": True}, {"step": 2}:
        restored = saver.load(state := make_state(0), **choice)  # type: ignore[arg-type]
        assert (restored.step, fill_of(state)) == (1, 1)
        (note,) = restored.notes
        assert "step-0000002 is damaged" in note and name in note and note.endswith("; loaded step-0000001 instead")
    harm(folder.checkpoints / "step-0000001" / name)
    with pytest.raises(InputError, match=r"no whole checkpoint is left: .*step-0000002.*step-0000001"):
        saver.load(make_state(0))
    saver.save(2, make_state(2))  # over the damaged one
    assert saver.load(make_state(0)).notes == ()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_what_cannot_be_opened_is_not_damaged(folder: RunFolder, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Passing over a whole checkpoint lets a later save remove it as an abandoned future. A disk's error is damage."""
    saver = Checkpointer(folder, asynchronous=False)
    saver.save(1, make_state(1))
    saver.save(2, make_state(2))
    read = storage.read_file

    def refused(path: Path, *words: Any) -> None:
        if path.parent.name == "step-0000002":
            raise OSError(number, os.strerror(number), str(path))
        read(path, *words)

    monkeypatch.setattr(storage, "read_file", refused)
    if number == errno.EIO:
        assert saver.load(make_state(0)).step == 1
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            saver.load(make_state(0))


@pytest.mark.parametrize("content", [[], 7, "text", {}, {"step": 2}, {"step": 2, "files": {"model.0.safetensors": 1}}])
def test_an_index_of_another_shape_is_damage(folder: RunFolder, content: Any) -> None:
    """Whatever its checksum says."""
    saver = Checkpointer(folder, asynchronous=False)
    saver.save(1, make_state(1))
    saver.save(2, make_state(2))
    if isinstance(content, dict):
        content["checksum"] = zlib.crc32(storage._encode(content))
    (folder.checkpoints / "step-0000002" / "checkpoint.json").write_text(json.dumps(content))
    restored = saver.load(make_state(0))
    assert restored.step == 1 and "step-0000002 is damaged (checkpoint.json" in restored.notes[0]


def _rewrite(index: Path, **changes: Any) -> None:
    """Change what an index says, under a checksum that is right."""
    content = json.loads(index.read_bytes()) | changes
    del content["checksum"]
    index.write_text(json.dumps({"checksum": zlib.crc32(json.dumps(content, indent=1).encode()), **content}))


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_an_index_is_json_that_any_reader_takes(folder: RunFolder, number: float) -> None:
    """Numbers that JSON has not come back all the same; as such they are damage, but for the first format's."""
    saver, state = Checkpointer(folder, asynchronous=False), make_state(1) | {"best": number, "both": [1.0, [number]]}
    saver.save(1, state, loss=number)
    index = folder.checkpoints / "step-0000001" / "checkpoint.json"
    content = parse_json(index.read_bytes())
    assert content["loss"] is None

    def loaded() -> str:
        state.update(best=0.0, both=[])
        saver.load(state)
        return str([state["best"], state["both"]])

    as_saved = str([number, [1.0, [number]]])
    assert loaded() == as_saved
    _rewrite(index, values=content["values"] | {"best": number, "both": [1.0, [number]]}, format=1)
    assert loaded() == as_saved
    _rewrite(index, format=storage.FORMAT)
    with pytest.raises(InputError, match=r"step-0000001 is damaged \(checkpoint.json is not readable\)"):
        loaded()
    _rewrite(index, values=content["values"] | {"best": {"float": "much"}})
    with pytest.raises(InputError, match=r"step-0000001 is damaged \(checkpoint.json has another shape: values.best"):
        loaded()


def test_what_does_not_fit_or_is_not_there_is_named(folder: RunFolder) -> None:
    saver = Checkpointer(folder, asynchronous=False)
    with pytest.raises(InputError, match="holds no checkpoint yet"):
        saver.load(make_state(0))
    saver.save(3, make_state(3))
    with pytest.raises(InputError, match="no checkpoint of step 4; it has 3"):
        saver.load(make_state(0), step=4)
    for change, says in [
        ({"weight0": torch.zeros(2, 2)}, r"model/weight0 is F32 \[64, 16\] there and F32 \[2, 2\] here"),
        ({"weight0": torch.zeros(64, 16).bfloat16()}, "BF16"),
        ({"more": torch.zeros(1)}, "model/more is absent there"),
    ]:
        with pytest.raises(InputError, match=says):
            saver.load_weights(make_state(0)["model"] | change)
    with pytest.raises(InputError, match=r"model/weight0 .* absent here"):
        saver.load_weights({"weight1": torch.zeros(64, 16)})


def test_a_newer_format_is_refused(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = Checkpointer(folder, asynchronous=False)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "FORMAT", 3)
        saver.save(3, make_state(3))
    with pytest.raises(InputError, match=r"step-0000003 has the format 3 of a newer Phalanx, .* up to 2; update"):
        saver.load(make_state(0))


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickles_are_neither_written_nor_read(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = Checkpointer(folder, asynchronous=False)
    saver.save(1, make_state(1))
    saver.save(2, make_state(2))
    mark, bomb = folder.path / "exploded", pickle.dumps(_Bomb(folder.path / "exploded"))
    pickle.loads(bomb)
    assert mark.exists(), "the bomb must be a live one"
    mark.unlink()

    newest = folder.checkpoints / "step-0000002"
    assert {path.suffix for path in newest.iterdir()} == {".json", ".safetensors"}
    for name in ".metadata", "__0_0.distcp", "model.0.safetensors", "checkpoint.json":
        (newest / name).write_bytes(bomb)
    (folder.checkpoints / "best").write_bytes(bomb)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("unpickled")

    for place in "pickle.load", "pickle.loads", "torch.load":
        monkeypatch.setattr(place, refuse)
    for best in False, True:
        assert saver.load(make_state(0), best=best).step == 1
    assert not mark.exists()


def test_checkpoints_that_are_no_folder(tmp_path: Path) -> None:
    """They are told before anything of the run is touched."""
    folder = RunFolder(tmp_path)
    folder.checkpoints.touch()
    with pytest.raises(InputError, match=r"checkpoints is no folder; remove it, or put the folder of checkpoints back"):
        _ = Checkpointer(folder).latest
