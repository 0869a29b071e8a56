"""Checkpoints: exact, whole after any kill, verified, and never unpickled."""

import errno
import json
import multiprocessing
import os
import pickle
import random
import time
import zlib
from collections.abc import Iterator
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from phalanx.errors import InputError
from phalanx.run import storage
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder

State = dict[str, Any]
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return _folder(tmp_path)


def _folder(path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.checkpoints.mkdir(exist_ok=True)
    return folder


def _state(fill: float) -> State:
    """A state whose every number is `fill`, in several parts and tensors, 48 KiB."""
    fill = float(fill)
    return {
        "model": {f"weight{i}": torch.full((64, 16), fill) for i in range(12)},
        "optimizer": {"state": {"w": {"step": torch.tensor(fill)}}, "groups": [{"lr": fill, "betas": (0.9, fill)}]},
        "step": int(fill),
    }


def _fill_of(state: State) -> float:
    """The one number that fills `state`; fails when there are several."""
    group = state["optimizer"]["groups"][0]
    numbers = {float(state["step"]), group["lr"], group["betas"][1], state["optimizer"]["state"]["w"]["step"].item()}
    for weight in state["model"].values():
        numbers |= set(weight.flatten().tolist())
    assert len(numbers) == 1, f"a mixture of {sorted(numbers)}"
    return numbers.pop()


def _steps(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.checkpoints.iterdir())


@pytest.mark.parametrize("asynchronous", [True, False])
def test_round_trip_is_bit_exact(folder: RunFolder, asynchronous: bool) -> None:
    bits = torch.randint(-(2**31), 2**31 - 1, (33, 7), dtype=torch.int32)  # NaNs and denormals among them
    tensors = {
        "f32": bits.view(torch.float32),
        "bf16": bits.view(torch.bfloat16),
        "f16": bits.view(torch.float16),
        "f64": torch.randn(3, dtype=torch.float64),
        "i64": torch.tensor([2**63 - 1, -(2**63)]),
        "u8": torch.arange(3, dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(7.0),
        "empty": torch.empty(0, 4),
        "transposed": torch.randn(5, 3).t(),
        "row": torch.randn(4, 5)[2],
    }
    values = {
        "lr": 0.1 + 0.2,
        "inf": float("inf"),
        "none": None,
        "on": True,
        "big": 2**70,
        "pair": (1, 2.5),
        "é/": "ü\n",
    }
    saver = Checkpointer(folder, asynchronous=asynchronous)
    saver.save(5, {"t": {"deep": [tensors, {"x": 1}]}, "v": values}, loss=1.5)
    saver.wait()

    blank = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    state: State = {"t": {"deep": [blank, {"x": 0}]}, "v": dict.fromkeys(values) | {"pair": (0, 0)}}
    assert Checkpointer(folder).load(state) == (5, 1.5, ())
    for name, tensor in tensors.items():
        raw = [t.contiguous().flatten().view(torch.uint8) for t in (tensor, blank[name])]
        assert torch.equal(*raw), name
    assert state["v"] == values and state["t"]["deep"][1] == {"x": 1}


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_training_goes_on_exactly(folder: RunFolder, kind: Any) -> None:
    def made() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
        return model, kind(model.parameters(), lr=0.1)

    def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, first: int) -> list[float]:
        losses = []
        for step in range(first, first + 3):
            loss = (model(torch.sin(torch.arange(8.0).reshape(2, 4) + step)) ** 3).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    def parts(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> State:
        return dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))

    model, optimizer = made()
    train(model, optimizer, 0)
    saver = Checkpointer(folder)
    saver.save(3, parts(model, optimizer))
    expected = train(model, optimizer, 3)  # while the save is written

    model, optimizer = made()
    state = parts(model, optimizer)
    saver.load(state)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    assert train(model, optimizer, 3) == expected


def test_a_save_under_way_sees_no_later_change(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    write = storage._write_file

    def slow(*arguments: Any) -> Any:
        time.sleep(0.3)
        return write(*arguments)

    monkeypatch.setattr(storage, "_write_file", slow)
    saver, state = Checkpointer(folder, keep=9), _state(1)
    for step in 1, 2, 3:
        saver.save(step, state)
        for weight in state["model"].values():
            weight.add_(1)
        state["optimizer"]["state"]["w"]["step"].add_(1)
        state["optimizer"]["groups"][0] |= {"lr": step + 1.0, "betas": (0.9, step + 1.0)}
        state["step"] += 1
    saver.wait()
    for step in 1, 2, 3:
        saver.load(loaded := _state(0), step=step)
        assert _fill_of(loaded) == step


def test_staging_keeps_its_buffers(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    saver, state, places = Checkpointer(folder), _state(1), []
    monkeypatch.setattr(
        saver,
        "_write",
        lambda step, loss, tensors, *_: places.append([tensor.data_ptr() for tensor in tensors.values()]),
    )
    for step in range(3):
        saver.save(step, state)
    saver.wait()
    assert places[0] == places[1] == places[2]
    assert not set(places[0]) & {weight.data_ptr() for weight in state["model"].values()}


def test_newest_are_kept_and_the_best_besides(folder: RunFolder) -> None:
    saver = Checkpointer(folder, keep=2, asynchronous=False)
    for step, loss in enumerate([3.0, 1.0, float("nan"), 2.0, None, 1.5]):
        saver.save(step, _state(step), loss)
    assert _steps(folder) == ["best", "step-0000001", "step-0000004", "step-0000005"]
    assert saver.latest == 5
    saver.load(state := _state(9))
    assert _fill_of(state) == 5
    assert saver.load(state, best=True) == (1, 1.0, ())
    assert _fill_of(state) == 1
    Checkpointer(folder, keep=1, asynchronous=False).save(6, _state(6), 0.5)
    assert _steps(folder) == ["best", "step-0000006"]


def test_a_step_saved_again_replaces_itself_and_the_future_it_abandons(folder: RunFolder) -> None:
    saver = Checkpointer(folder, keep=9, asynchronous=False)
    for step in 1, 2, 3:
        saver.save(step, _state(step))
    saver.save(2, _state(20))
    assert _steps(folder) == ["step-0000001", "step-0000002"]
    saver.load(state := _state(0))
    assert _fill_of(state) == 20


def test_a_kill_between_the_two_renames_loses_nothing(folder: RunFolder) -> None:
    saver = Checkpointer(folder, asynchronous=False)
    saver.save(2, _state(2))
    path = folder.checkpoints / "step-0000002"
    path.rename(path.with_name(path.name + ".old"))
    (folder.checkpoints / "step-0000002.partial").mkdir()
    Checkpointer(folder).load(state := _state(0))
    assert _fill_of(state) == 2
    saver.save(3, _state(3))
    assert _steps(folder) == ["step-0000002.old", "step-0000003"]
    saver.save(2, _state(2))
    assert _steps(folder) == ["step-0000002"]


def test_weights_alone(folder: RunFolder) -> None:
    saver = Checkpointer(folder, asynchronous=False)
    saver.save(4, _state(4))
    (folder.checkpoints / "step-0000004" / "optimizer.0.safetensors").unlink()  # not even looked at
    model = _state(0)["model"]
    assert saver.load_weights(model).step == 4
    assert {value for weight in model.values() for value in weight.flatten().tolist()} == {4}
    plain = load_file(folder.checkpoints / "step-0000004" / "model.0.safetensors")
    assert plain.keys() == model.keys() and all(torch.equal(plain[name], model[name]) for name in model)


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
    saver.save(1, _state(1), loss=1.0)
    saver.save(2, _state(2), loss=0.5)
    harm(folder.checkpoints / "step-0000002" / name)
    for choice in {"best": False}, {"best": True}, {"step": 2}:
        restored = saver.load(state := _state(0), **choice)  # type: ignore[arg-type]
        assert (restored.step, _fill_of(state)) == (1, 1)
        (note,) = restored.notes
        assert "step-0000002 is damaged" in note and name in note and note.endswith("; loaded step-0000001 instead")
    harm(folder.checkpoints / "step-0000001" / name)
    with pytest.raises(InputError, match=r"no whole checkpoint is left: .*step-0000002.*step-0000001"):
        saver.load(_state(0))
    saver.save(2, _state(2))  # over the damaged one
    assert saver.load(_state(0)).notes == ()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO])
def test_what_cannot_be_opened_is_not_damaged(folder: RunFolder, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Passing over a whole checkpoint lets a later save remove it as an abandoned future. A disk's error is damage."""
    saver = Checkpointer(folder, asynchronous=False)
    saver.save(1, _state(1))
    saver.save(2, _state(2))
    checksum = storage._checksum

    def refused(path: Path) -> int:
        if path.parent.name == "step-0000002":
            raise OSError(number, os.strerror(number), str(path))
        return checksum(path)

    monkeypatch.setattr(storage, "_checksum", refused)
    if number == errno.EIO:
        assert saver.load(_state(0)).step == 1
    else:
        with pytest.raises(OSError, match=os.strerror(number)):
            saver.load(_state(0))
        monkeypatch.setattr(storage, "_checksum", checksum)
        monkeypatch.setattr(storage, "safe_open", lambda path, **_: refused(Path(path)))
        with pytest.raises(OSError, match=os.strerror(number)):
            saver.load(_state(0))


@pytest.mark.parametrize("content", [[], 7, "text", {}, {"step": 2}, {"step": 2, "files": {"model.0.safetensors": 1}}])
def test_an_index_of_another_shape_is_damage(folder: RunFolder, content: Any) -> None:
    """Whatever its checksum says."""
    saver = Checkpointer(folder, asynchronous=False)
    saver.save(1, _state(1))
    saver.save(2, _state(2))
    if isinstance(content, dict):
        content["checksum"] = zlib.crc32(storage._encode(content))
    (folder.checkpoints / "step-0000002" / "checkpoint.json").write_text(json.dumps(content))
    restored = saver.load(_state(0))
    assert restored.step == 1 and "step-0000002 is damaged (checkpoint.json" in restored.notes[0]


def test_what_does_not_fit_or_is_not_there_is_named(folder: RunFolder) -> None:
    saver = Checkpointer(folder, asynchronous=False)
    with pytest.raises(InputError, match="holds no checkpoint yet"):
        saver.load(_state(0))
    saver.save(3, _state(3))
    with pytest.raises(InputError, match="no checkpoint of step 4; it has 3"):
        saver.load(_state(0), step=4)
    for change, says in [
        ({"weight0": torch.zeros(2, 2)}, r"model/weight0 is F32 \[64, 16\] there and F32 \[2, 2\] here"),
        ({"weight0": torch.zeros(64, 16).bfloat16()}, "BF16"),
        ({"more": torch.zeros(1)}, "model/more is absent there"),
    ]:
        with pytest.raises(InputError, match=says):
            saver.load_weights(_state(0)["model"] | change)
    with pytest.raises(InputError, match=r"model/weight0 .* absent here"):
        saver.load_weights({"weight1": torch.zeros(64, 16)})


def test_a_newer_format_is_refused(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = Checkpointer(folder, asynchronous=False)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "FORMAT", 2)
        saver.save(3, _state(3))
    with pytest.raises(InputError, match=r"step-0000003 has the format 2 of a newer Phalanx, .* up to 1; update"):
        saver.load(_state(0))


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickles_are_neither_written_nor_read(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    saver = Checkpointer(folder, asynchronous=False)
    saver.save(1, _state(1))
    saver.save(2, _state(2))
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
        assert saver.load(_state(0), best=best).step == 1
    assert not mark.exists()


@pytest.mark.parametrize("asynchronous", [True, False])
def test_full_disk_is_one_line_and_costs_one_checkpoint(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    saver = Checkpointer(folder, asynchronous=asynchronous)
    saver.save(1, _state(1), 1.0)
    saver.wait()
    line = r"step-0000002 was not saved: No space left on device: it takes .* GiB, .* GiB are free"

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        if asynchronous:
            saver.save(2, _state(2))
            time.sleep(0.5)
        else:
            with pytest.raises(InputError, match=line):
                saver.save(2, _state(2))
    assert _steps(folder) == ["best", "step-0000001"]
    if asynchronous:
        with pytest.raises(InputError, match=line):
            saver.save(3, _state(3))
    else:
        saver.save(3, _state(3))
    saver.wait()
    assert _steps(folder) == ["best", "step-0000001", "step-0000003"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    (path := tmp_path / "disk").mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=200k none {path} 2>/dev/null"):
        pytest.skip("no right to mount a small disk; the same fault is injected above")
    yield path
    os.system(f"umount {path}")


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    folder = _folder(small_disk)
    saver = Checkpointer(folder, keep=1, asynchronous=False)
    for step in 1, 2, 3:  # two at a time
        saver.save(step, _state(step))
    (small_disk / "other").write_bytes(bytes(100 << 10))
    with pytest.raises(InputError, match="No space left on device"):
        saver.save(4, _state(4))
    assert _steps(folder) == ["step-0000003"]
    saver.load(state := _state(0))
    assert _fill_of(state) == 3


def _save_without_end(path: Path, done: "Synchronized[int]") -> None:
    torch.set_num_threads(1)
    saver, state = Checkpointer(_folder(path)), _state(0)
    step = saver.load(state).step if saver.latest is not None else 0
    while True:
        step += 1
        saver.save(step, _state(step), loss=1 / step if step % 3 else 2.0)
        saver.wait()
        done.value = step


def test_thirty_kills_at_random_moments(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["phalanx.run.checkpoint"])
    done = context.Value("q", 0)
    folder, cut_short = _folder(tmp_path), 0
    for _ in range(30):
        known = done.value
        process = context.Process(target=_save_without_end, args=(tmp_path, done))
        process.start()
        while done.value == known:
            assert process.is_alive()
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.15))
        process.kill()
        process.join()
        cut_short += any(name.endswith((".partial", ".old")) for name in _steps(folder))
        for best in False, True:
            restored = Checkpointer(folder).load(state := _state(0), best=best)
            assert restored.notes == () and _fill_of(state) == restored.step
            assert best or restored.step in {done.value, done.value + 1}
    assert cut_short > 0, "no kill struck during a save: this test proved nothing"
