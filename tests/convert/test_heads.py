"""BERT's heads between transformers and runs, and as ONNX graphs: the same logits, the same bits."""

from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
import torch
import transformers
from torch import Tensor

from phalanx.convert.huggingface import export_run, import_folder
from phalanx.infer import export
from phalanx.infer.bundle import load_bundle
from phalanx.infer.traced import TracedEncoder
from phalanx.run.folder import RunFolder
from tests.batches import batch_of
from tests.convert.folders import PIECES, tokenizer_of
from tests.convert.test_huggingface import same

SIZES = {"vocab_size": len(PIECES), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 24, "max_position_embeddings": 16}  # fmt: skip
CLASSES = {
    "classes": ("BertForSequenceClassification", {"id2label": {0: "bad", 1: "so so", 2: "good"}}),
    "value": ("BertForSequenceClassification", {"num_labels": 1}),
    "span": ("BertForQuestionAnswering", {}),
    "choice": ("BertForMultipleChoice", {}),
    "tokens": ("BertForTokenClassification", {"num_labels": 5}),
}


@pytest.fixture(scope="module", params=["", "Megatron"], ids=["post-LN", "pre-LN"])
def form(request: pytest.FixtureRequest) -> str:
    """What stands before the name of a class of theirs."""
    name: str = request.param
    return name


@pytest.fixture(scope="module", params=CLASSES)
def head(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def theirs(head: str, form: str) -> Any:
    """A small random model of theirs."""
    torch.manual_seed(1)
    name, facts = CLASSES[head]
    return getattr(transformers, form + name)(getattr(transformers, f"{form}BertConfig")(**SIZES, **facts)).eval()


@pytest.fixture(scope="module")
def run(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that it becomes."""
    folder = tmp_path_factory.mktemp("run")
    theirs.save_pretrained(folder / "theirs")
    tokenizer_of("bert").save(folder / "theirs" / "tokenizer.json")
    told = import_folder(folder / "theirs", folder / "run")
    assert not told.missing and not told.unused
    return folder / "run"


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, segments, and what is no padding, of ragged rows, two candidates a question."""
    torch.manual_seed(2)
    tokens, used = torch.randint(len(PIECES), (4, 9)), torch.tensor([9, 4, 1, 7])
    return tokens, torch.randint(2, tokens.shape), (torch.arange(9) < used[:, None]).long()


@torch.no_grad()
def answers(theirs: Any, head: str) -> Tensor:
    """Their logits, in our shape."""
    tokens, segment, mask = inputs()
    if head == "choice":
        found = theirs(tokens[None], token_type_ids=segment[None], attention_mask=mask[None]).logits
        return found.view(-1, 1)
    found = theirs(tokens, token_type_ids=segment, attention_mask=mask)
    return torch.stack([found.start_logits, found.end_logits], -1) if head == "span" else found.logits


def close(mine: Tensor, expected: Tensor, atol: float) -> None:
    """Apart from padding."""
    keep = inputs()[2].bool() if expected.ndim == 3 else slice(None)
    torch.testing.assert_close(mine[keep], expected[keep], atol=atol, rtol=0)


@torch.no_grad()
def test_an_imported_head_gives_their_logits(run: Path, theirs: Any, head: str) -> None:
    tokens, segment, mask = inputs()
    loaded = load_bundle(run)
    assert loaded.config.task == head
    close(loaded.model(batch_of(tokens, 16, segment=segment, document=mask.int() - 1)), answers(theirs, head), 1e-5)


def test_there_and_back(run: Path, theirs: Any, head: str, form: str, tmp_path: Path) -> None:
    export_run(run, tmp_path / "back")
    name = form + CLASSES[head][0]
    again = getattr(transformers, name).from_pretrained(tmp_path / "back").eval()
    close(answers(again, head), answers(theirs, head), 0)
    assert again.config.id2label == theirs.config.id2label or head in ("span", "choice")
    import_folder(tmp_path / "back", tmp_path / "again")
    export_run(tmp_path / "again", tmp_path / "twice")
    assert same(tmp_path / "back", tmp_path / "twice")
    assert RunFolder(tmp_path / "again").config().examples == RunFolder(run).config().examples


@pytest.mark.slow
def test_as_a_graph(run: Path, theirs: Any, head: str, tmp_path: Path) -> None:
    """What is traced gives their logits; one head is written and run besides (a pooler: tests/infer)."""
    graph = TracedEncoder(load_bundle(run))
    with torch.no_grad():
        found = list(graph(*(inputs()[place] for place in (0, 2, 1))))
    if head == "span" and not theirs.config.model_type.startswith("megatron"):
        names = export.export_run(run, tmp_path / "model.onnx")
        assert names == list(graph.outputs)
        session = ort.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
        fed = zip(("input_ids", "token_type_ids", "attention_mask"), inputs(), strict=True)
        found = [torch.from_numpy(one) for one in session.run(names, {name: tensor.numpy() for name, tensor in fed})]
    close(torch.stack(found, -1) if head == "span" else found[0], answers(theirs, head), 1e-4)
