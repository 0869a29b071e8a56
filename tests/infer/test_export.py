"""The graphs in onnxruntime: the model's own logits, on batches of any shape, ragged, and step by step."""

from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner, Result

from phalanx.cli.app import app
from phalanx.errors import InputError
from phalanx.infer.bundle import ModelBundle, load_bundle
from phalanx.infer.export import export_run
from tests.batches import batch_of
from tests.infer.runs import BERT, GPT, make_run

CLOSE = {"rtol": 0, "atol": 1e-4}


def session(file: Path) -> Any:
    return ort.InferenceSession(str(file), providers=["CPUExecutionProvider"])


def run(made: Any, **inputs: Tensor) -> dict[str, Tensor]:
    names = [output.name for output in made.get_outputs()]
    answers = made.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    return dict(zip(names, map(torch.from_numpy, answers), strict=True))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelBundle, Any]:
    folder = tmp_path_factory.mktemp("bert")
    make_run(folder / "run", BERT, "bert-uncased")
    assert export_run(folder / "run", folder / "model.onnx") == ["logits", "pair_logits"]
    return load_bundle(folder / "run"), session(folder / "model.onnx")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A folder with a GPT's run and its graph, model.onnx, and what the verb told."""
    folder = tmp_path_factory.mktemp("gpt")
    make_run(folder / "run", GPT, "gpt2")
    words = ["export", str(folder / "run"), str(folder / "model.onnx"), "--to", "onnx"]
    return folder, CliRunner().invoke(app, words)


@pytest.fixture(scope="module")
def gpt(exported: tuple[Path, Result]) -> tuple[ModelBundle, Any]:
    folder, _ = exported
    return load_bundle(folder / "run"), session(folder / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [[1], [16], [5, 2], [16, 1, 7, 9]])
@torch.no_grad()
def test_bert(bert: tuple[ModelBundle, Any], lengths: list[int]) -> None:
    """Each text of a ragged batch as it would be alone."""
    loaded, made = bert
    longest = max(lengths)
    ids = torch.randint(30522, (len(lengths), longest))
    mask = torch.tensor([[int(i < n) for i in range(longest)] for n in lengths])
    segment = torch.randint(2, ids.shape)
    answers = run(made, input_ids=ids, attention_mask=mask, token_type_ids=segment)
    for row, n in enumerate(lengths):
        batch = batch_of(ids[row : row + 1, :n], 16, segment=segment[row : row + 1, :n])
        torch.testing.assert_close(answers["logits"][row, :n], loaded.model(batch)[0], **CLOSE)


def alone(loaded: ModelBundle, tokens: Tensor) -> Tensor:
    """Logits of a text by itself."""
    return loaded.logits(tokens.tolist())


def nothing(made: Any, rows: int) -> dict[str, Tensor]:
    """The empty past."""
    pasts = [i for i in made.get_inputs() if i.name.startswith("past")]
    return {i.name: torch.zeros(rows, i.shape[1], 0, i.shape[3]) for i in pasts}


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [[3], [12], [4, 2], [12, 1, 7]])
def test_gpt_at_once(gpt: tuple[ModelBundle, Any], lengths: list[int]) -> None:
    loaded, made = gpt
    longest = max(lengths)
    ids = torch.randint(50257, (len(lengths), longest))
    mask = torch.tensor([[int(i >= longest - n) for i in range(longest)] for n in lengths])
    answers = run(made, input_ids=ids, attention_mask=mask, **nothing(made, len(lengths)))
    for row, n in enumerate(lengths):
        torch.testing.assert_close(
            answers["logits"][row, longest - n :], alone(loaded, ids[row, longest - n :]), **CLOSE
        )


def test_gpt_step_by_step(gpt: tuple[ModelBundle, Any]) -> None:
    """A ragged prompt, then a token at a time: the logits of the whole text."""
    loaded, made = gpt
    ids, lengths = torch.randint(50257, (2, 12)), [6, 3]
    mask = torch.tensor([[int(i >= 6 - n) for i in range(12)] for n in lengths])
    past = nothing(made, 2)
    at = 0
    for size in (6, 1, 1, 3):
        answers = run(made, input_ids=ids[:, at : at + size], attention_mask=mask[:, : at + size], **past)
        past = {name.replace("present", "past"): tensor for name, tensor in answers.items() if "present" in name}
        at += size
        for row, n in enumerate(lengths):
            whole = alone(loaded, ids[row, 6 - n : at])
            torch.testing.assert_close(answers["logits"][row, -1], whole[-1], **CLOSE)
    assert all(tensor.shape[2] == at for tensor in past.values())


def test_a_file_that_is_there_is_kept(gpt: tuple[ModelBundle, Any], tmp_path: Path) -> None:
    (tmp_path / "there.onnx").write_text("mine")
    with pytest.raises(InputError, match="there already"):
        export_run(gpt[0].run, tmp_path / "there.onnx")
    assert (tmp_path / "there.onnx").read_text() == "mine"


@pytest.mark.slow
def test_the_verb(exported: tuple[Path, Result]) -> None:
    folder, told = exported
    assert told.exit_code == 0 and "present.0.key" in told.stdout and (folder / "model.onnx").is_file()
