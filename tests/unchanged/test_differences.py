"""What was planted is found, and told with its place; what may differ is not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

from phalanx.run.files import write_file
from tests.unchanged.differences import differing, verdict
from tests.unchanged.jobs import INPUTS, JOBS, Expected

STEP = {"step": 3, "kind": "train", "loss": 5.0, "grad_norm": 2.0, "tokens_per_s": 7.0}


def metrics(**changed: Any) -> Callable[[Path], object]:
    """A curve of two records, of which the second has other values."""
    start = {"step": 0, "kind": "start", "parameters": 9, "device": "cpu"}
    return lambda file: file.write_text("".join(json.dumps(record) + "\n" for record in (start, {**STEP, **changed})))


def tensors(name: str = "weight", value: float = 3.0, **metadata: str) -> Callable[[Path], object]:
    """Two tensors, in one of which a number is another."""
    weight = torch.tensor([[1.0, 2.0], [value, 4.0]])
    return lambda file: save_file({name: weight, "bias": torch.zeros(2)}, file, metadata)


def in_order(*names: str) -> Callable[[Path], object]:
    """Tensors that lie in this order in their file."""
    found = {name: torch.full((2,), float(len(name))) for name in names}
    return lambda file: write_file(file, found, found.__getitem__)


def graph(operation: str = "Relu", line: str = "line 1") -> Callable[[Path], object]:
    """An ONNX graph of one node that comes from a line of a source."""
    node = helper.make_node(operation, ["x"], ["y"])
    node.metadata_props.add(key="stack_trace", value=line)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    model = helper.make_model(helper.make_graph([node], "g", ends[:1], ends[1:]))
    return lambda file: onnx.save(model, file)


def content(what: str | bytes) -> Callable[[Path], object]:
    """A text, or bytes."""
    return lambda file: file.write_bytes(what.encode() if isinstance(what, str) else what)


def array(*numbers: float) -> Callable[[Path], object]:
    """A .npy file."""
    return lambda file: np.save(file, np.array(numbers, float))


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("metrics.jsonl", metrics(), metrics(loss=5.0000001), "step 3 train loss: 5.0 is now 5.0000001, 1.0e-07 apart"),
        ("metrics.jsonl", metrics(), metrics(grad_norm=float("nan")), "step 3 train grad_norm: 2.0 is now nan"),
        ("metrics.jsonl", metrics(), metrics(kind="valid"), "kind: train is now valid"),
        ("metrics.jsonl", metrics(), metrics(more=1), "loss, grad_norm are now"),
        ("metrics.jsonl", metrics(), content(""), "2 records are now 0"),
        ("a.safetensors", tensors(), tensors(value=9.0), "weight [1, 0]: 3.0 is now 9.0"),
        ("a.safetensors", tensors(), tensors("other"), "weight is gone"),
        ("a.safetensors", tensors(value=0.0), tensors(value=-0.0), "weight: signs of zeros"),
        ("a.safetensors", tensors(), tensors(format="pt"), "{'format': 'pt'}"),
        ("a.npy", array(1, 2, 3), array(1, 5, 6), "[1]: 2.0 is now 5.0, with 1 more"),
        ("a.npy", array(1, 2), array(1, 2, 3), "(2,) is now float64 (3,)"),
        ("a.onnx", graph(), graph("Tanh"), "Relu"),
        ("config.json", content('{\n"a": 1}'), content('{\n"a": 2}'), """line 2: '"a": 1}' is now '"a": 2}'"""),
        ("output.txt", content("a\nb\n"), content("a\n"), "line 2: 'b' is now nothing"),
        ("output.txt", content("a" * 900 + "b"), content("a" * 900 + "c"), "aab' is now '…aa"),
        ("output.txt", content("a\n"), content("a"), "how lines end"),
        ("set.bin", content(b"\xff\x00\x01"), content(b"\xff\x00\x02"), "byte 2 of 3"),
    ],
)
def test_a_planted_difference_is_told(
    tmp_path: Path, name: str, old: Callable[[Path], object], new: Callable[[Path], object], told: str
) -> None:
    for side, write in ("old", old), ("new", new):
        (tmp_path / side).mkdir()
        write(tmp_path / side / name)
    assert told in differing(tmp_path / "old", tmp_path / "new", ("**/*",))[name]
    assert not differing(tmp_path / "old", tmp_path / "old", ("**/*",))


@pytest.mark.parametrize(
    ("name", "old", "new", "tolerance"),
    [
        ("metrics.jsonl", metrics(), metrics(tokens_per_s=8.0), 0.0),
        ("metrics.jsonl", metrics(), metrics(loss=5.0004, grad_norm=1.9999), 1e-4),
        ("a.onnx", graph(), graph(line="line 2"), 0.0),
        ("a.safetensors", in_order("weight", "bias"), in_order("bias", "weight"), 0.0),
    ],
)
def test_what_may_differ_is_not_told(
    tmp_path: Path, name: str, old: Callable[[Path], object], new: Callable[[Path], object], tolerance: float
) -> None:
    for side, write in ("old", old), ("new", new):
        (tmp_path / side).mkdir()
        write(tmp_path / side / name)
    assert not differing(tmp_path / "old", tmp_path / "new", ("**/*",), tolerance)


def test_files_that_one_side_lacks(tmp_path: Path) -> None:
    for side, name in ("old", "a"), ("new", "b"):
        (tmp_path / side / "deep").mkdir(parents=True)
        (tmp_path / side / "deep" / name).write_text("")
    found = differing(tmp_path / "old", tmp_path / "new", ("**/*",))
    assert found == {"deep/a": "is gone", "deep/b": "is new"}
    assert differing(tmp_path / "old", tmp_path / "new", ("*.json",)) == {"*.json": "neither tree wrote any such file"}


def test_an_expected_difference_is_none_and_must_be_there() -> None:
    expected = (Expected("plan-1", "output.txt", "Muon is counted right"),)
    told, bad = verdict("plan-1", {"output.txt": "line 1"}, expected)
    assert not bad and "Muon is counted right" in told[1]
    assert verdict("plan-1", {"output.txt": "line 1", "other": "line 2"}, expected)[1]
    assert verdict("plan-1", {}, expected)[1]
    assert verdict("plan-2", {"output.txt": "line 1"}, expected)[1]
    assert verdict("plan-2", {}, expected) == (["plan-2  same"], False)


def test_jobs_have_names_of_their_own() -> None:
    names = [job.name for job in (*INPUTS, *JOBS)]
    assert len(set(names)) == len(names)
