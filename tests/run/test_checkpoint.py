"""Checkpoints: exact, the right ones kept, read in part."""

import time
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from phalanx.run import storage
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from tests.run.states import State, fill_of, make_state, steps


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
    saver.staged()
    expected = train(model, optimizer, 3)  # while the save is written

    model, optimizer = made()
    state = parts(model, optimizer)
    saver.load(state)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    assert train(model, optimizer, 3) == expected


def test_a_save_under_way_sees_no_later_change(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    write, copy = storage.write_file, np.copyto

    def slow(*arguments: Any) -> Any:
        time.sleep(0.1)
        return write(*arguments)

    def unhurried(*arguments: Any) -> None:
        time.sleep(0.01)
        copy(*arguments)

    monkeypatch.setattr(storage, "write_file", slow)
    monkeypatch.setattr(np, "copyto", unhurried)
    saver, state = Checkpointer(folder, keep=9), make_state(1)
    for step in 1, 2, 3:
        saver.save(step, state)
        saver.staged()
        for weight in state["model"].values():
            weight.add_(1)
        state["optimizer"]["state"]["w"]["step"].add_(1)
        state["optimizer"]["groups"][0] |= {"lr": step + 1.0, "betas": (0.9, step + 1.0)}
        state["step"] += 1
    saver.wait()
    for step in 1, 2, 3:
        saver.load(loaded := make_state(0), step=step)
        assert fill_of(loaded) == step


def test_staging_keeps_its_buffers(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    saver, state, places = Checkpointer(folder), make_state(1), []
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
        saver.save(step, make_state(step), loss)
    assert steps(folder) == ["best", "step-0000001", "step-0000004", "step-0000005"]
    assert saver.latest == 5
    saver.load(state := make_state(9))
    assert fill_of(state) == 5
    assert saver.load(state, best=True) == (1, 1.0, ())
    assert fill_of(state) == 1
    Checkpointer(folder, keep=1, asynchronous=False).save(6, make_state(6), 0.5)
    assert steps(folder) == ["best", "step-0000006"]


def test_a_step_saved_again_replaces_itself_and_the_future_it_abandons(folder: RunFolder) -> None:
    saver = Checkpointer(folder, keep=9, asynchronous=False)
    for step in 1, 2, 3:
        saver.save(step, make_state(step))
    saver.save(2, make_state(20))
    assert steps(folder) == ["step-0000001", "step-0000002"]
    saver.load(state := make_state(0))
    assert fill_of(state) == 20


def test_a_kill_between_the_two_renames_loses_nothing(folder: RunFolder) -> None:
    saver = Checkpointer(folder, asynchronous=False)
    saver.save(2, make_state(2))
    path = folder.checkpoints / "step-0000002"
    path.rename(path.with_name(path.name + ".old"))
    (folder.checkpoints / "step-0000002.partial").mkdir()
    Checkpointer(folder).load(state := make_state(0))
    assert fill_of(state) == 2
    saver.save(3, make_state(3))
    assert steps(folder) == ["step-0000002.old", "step-0000003"]
    saver.save(2, make_state(2))
    assert steps(folder) == ["step-0000002"]


def test_weights_alone(folder: RunFolder) -> None:
    saver = Checkpointer(folder, asynchronous=False)
    saver.save(4, make_state(4))
    (folder.checkpoints / "step-0000004" / "optimizer.0.safetensors").unlink()  # not even looked at
    model = make_state(0)["model"]
    assert saver.load_weights(model).step == 4
    assert {value for weight in model.values() for value in weight.flatten().tolist()} == {4}
    plain = load_file(folder.checkpoints / "step-0000004" / "model.0.safetensors")
    assert plain.keys() == model.keys() and all(torch.equal(plain[name], model[name]) for name in model)
