"""What a BERT is asked, by every backend: the model's own answers on ragged rows, places in the original text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phalanx.config import Config
from phalanx.data.labelled import Encoded
from phalanx.errors import InputError
from phalanx.infer import artifact_cache, autotune, backends
from phalanx.infer import load as ready
from phalanx.infer.backends import onnxruntime
from phalanx.infer.backends.protocol import ProgramSpec
from phalanx.infer.batching import PackedBatcher, alike
from phalanx.infer.bundle import ModelBundle, load_bundle
from phalanx.infer.encoder import Encoder
from phalanx.infer.encoder_graphs import GraphedEncoder
from phalanx.infer.fill import fill
from phalanx.infer.kernels import compiled
from tests.batches import batch_of
from tests.infer.runs import BERT, interrupted, make_run, sliced

HEADS = ("classes", "value", "span", "tokens", "")
CLOSE = {"fp32": 1e-4, "int8": 0.2}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    compiled.unavailable()  # they are compiled before, and kept where the next run of the tests finds them
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("PHALANX_CACHE", str(folder))
    return folder


def config(head: str) -> Config:
    """A small BERT with a head."""
    update = {"head": head, "classes": 3 if head in ("classes", "tokens") else 0, "init_std": 0.2}
    model = BERT.model.model_copy(update=update)
    examples = BERT.examples.model_copy(update={"labels": ("bad", "so so", "good"), "stride": 4, "longest": 6})
    return BERT.model_copy(update={"model": model, "task": head or "mlm", "examples": examples})


@pytest.fixture(autouse=True, scope="module")
def _traced_once() -> Iterator[None]:
    """A model's graph is traced for onnxruntime once, not for each precision: it is the same fp32 graph for all."""
    made: dict[tuple[Path, bool], bytes] = {}
    trace = onnxruntime.graph

    def traced(wanted: ProgramSpec) -> Path:
        key = wanted.bundle.run, wanted.hidden
        if key not in made:
            made[key] = trace(wanted).read_bytes()
        file = artifact_cache.folder() / f"{wanted.precision}.partial.onnx"
        file.write_bytes(made[key])
        return file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "graph", traced)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for head in HEADS:
        made[head] = tmp_path_factory.mktemp("run") / (head or "plain")
        make_run(made[head], config(head), "bert-uncased")
    return made


def rows() -> list[Encoded]:
    draw = np.random.default_rng(3)
    return [Encoded(draw.integers(0, 30522, n), second) for n, second in ((16, 9), (1, 1), (7, 3), (7, 7), (12, 2))]


@torch.no_grad()
def alone(loaded: ModelBundle, row: Encoded, hidden: bool) -> np.ndarray:
    """One row through the model as it was trained."""
    tokens = torch.from_numpy(row.tokens)[None]
    segment = (torch.arange(len(row.tokens)) >= row.second).long()[None]
    batch = batch_of(tokens, 16, segment=segment)
    model = loaded.model
    found = model.transformer(batch) if hidden else model(batch)
    return found[0].numpy()


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("torch", "fp32"),
        pytest.param("torch", "int8", marks=pytest.mark.numerics),
        pytest.param("native", "fp32", marks=pytest.mark.numerics),
        pytest.param("native", "int8", marks=pytest.mark.numerics),
        ("onnxruntime", "fp32"),
        ("onnxruntime", "int8"),
        ("openvino", "fp32"),
    ],
)
def test_every_backend_says_what_the_model_says(runs: dict[str, Path], head: str, name: str, precision: str) -> None:
    """On rows of several lengths at once; the model itself is left as it was."""
    if reason := backends.unavailable(name, "encoder", load_bundle(runs[head]).spec, precision):
        pytest.skip(f"{name}: {reason}")
    if name == "onnxruntime" and head in ("value", "tokens"):
        pytest.skip("exported in the tests of conversion")
    loaded = load_bundle(runs[head])
    wanted = [alone(loaded, row, hidden=not head) for row in rows()]
    program = backends.encoder_program(name, ProgramSpec(loaded, precision, hidden=not head))
    for found, right in zip(program(rows()), wanted, strict=True):
        assert found.shape == right.shape
        np.testing.assert_allclose(found, right, atol=CLOSE[precision], rtol=0)
    np.testing.assert_array_equal(alone(loaded, rows()[0], not head), wanted[0])


@pytest.mark.parametrize("head", HEADS)
def test_what_a_gpu_records(runs: dict[str, Path], head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here without its graphs: rounded up, with tokens that are nobody's."""
    monkeypatch.setattr("phalanx.nn.packed.attend_varlen", sliced)
    loaded = load_bundle(runs[head])
    model: Any = loaded.shared()
    encoder = Encoder(model, head in ("", "span", "tokens"), hidden=not head)
    program = PackedBatcher(GraphedEncoder(encoder, loaded.context, torch.device("cpu")), encoder.per_token)
    for asked in (rows(), rows()[:3], rows()[:1], rows()[1:]):
        for found, row in zip(program(asked), asked, strict=True):
            np.testing.assert_allclose(found, alone(loaded, row, hidden=not head), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["torch", "native"])
def test_a_call_in_the_middle_of_another(runs: dict[str, Path], name: str) -> None:
    """All that a call needs travels with it: what the model is asked meanwhile changes nothing."""
    bundle = load_bundle(runs["span"])
    if reason := backends.unavailable(name, "encoder", bundle.spec, "fp32"):
        pytest.skip(f"{name}: {reason}")
    program: Any = backends.encoder_program(name, ProgramSpec(bundle, "fp32", hidden=False))
    block = next(iter(program.program.program.model.transformer.blocks.values()))
    right = program(rows())
    with interrupted(block, lambda: program(rows()[2:4])):
        found = program(rows())
    assert all(np.array_equal(one, other) for one, other in zip(found, right, strict=True))


def test_rows_of_about_one_length_go_together() -> None:
    assert list(alike([5, 30, 16, 31, 17], 16)) == [[0, 2], [4, 1, 3]]
    assert list(alike([16] * 5, 16, tokens=32)) == [[0, 1], [2, 3], [4]]


def test_places_are_those_of_the_text(runs: dict[str, Path]) -> None:
    """Of any script, in a context of many windows."""
    context = "Zoë ate naïve cafe\u0301s — 東京 and 🦜🏽, at Ærø; then she slept. " * 5
    model = ready(runs["span"], "torch")
    answer = model.answer("Who ate?", context)
    assert answer.text and context[answer.start : answer.stop] == answer.text
    assert model.answers([("Who ate?", context), ("Where?", "Here.")])[0] == pytest.approx(answer)


def test_silence(runs: dict[str, Path], tmp_path: Path) -> None:
    """A model of SQuAD 2.0 may say nothing; past its threshold it speaks."""
    for threshold, quiet in (-1e9, True), (1e9, False):
        examples = config("span").examples.model_copy(update={"form": "squad2", "threshold": threshold})
        make_run(tmp_path / str(quiet), config("span").model_copy(update={"examples": examples}), "bert-uncased")
        answer = ready(tmp_path / str(quiet), "torch").answer("Who?", "He did.")
        assert (answer.text == "") is quiet and answer.stop - answer.start == len(answer.text)


def test_classes_and_numbers(runs: dict[str, Path]) -> None:
    model, loaded = ready(runs["classes"], "torch"), load_bundle(runs["classes"])
    (one, two) = model.classified(["the film was good", ("the film", "was good")])
    row = model.assemble.join(*model.assemble.encode(["the film was good"]))
    right = torch.from_numpy(alone(loaded, row, False)).softmax(-1)
    assert list(one.probabilities.values()) == pytest.approx(right.tolist(), abs=1e-5)
    assert one.label == ("bad", "so so", "good")[int(right.argmax())] and one != two
    assert model.classify("the film was good").probabilities == pytest.approx(one.probabilities)
    assert len(ready(runs["value"], "torch").values(["a", ("b", "c")])) == 2


def test_embeddings(runs: dict[str, Path]) -> None:
    """Of length 1, each the mean over its own tokens."""
    model, loaded = ready(runs[""], "torch"), load_bundle(runs[""])
    texts = ["a cat", "a much longer text about a cat " * 3]
    found = model.embed(texts)
    for text, vector in zip(texts, found, strict=True):
        mean = alone(loaded, model.assemble.join(*model.assemble.encode([text])), True).mean(0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    assert model.embed([]).shape == (0, 16)


def test_masks_by_a_backend(runs: dict[str, Path]) -> None:
    text = "the [MASK] sat on the [MASK]"
    for mine, right in zip(ready(runs[""], "torch").fill(text), fill(load_bundle(runs[""]), text), strict=True):
        assert mine.position == right.position
        assert [p for _, p in mine.words] == pytest.approx([p for _, p in right.words], rel=1e-3)


@pytest.mark.slow
def test_the_fastest_is_chosen_and_remembered(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Among those whose answers are close to fp32's."""
    if backends.unavailable("openvino", "encoder", load_bundle(runs["classes"]).spec, "fp32"):
        monkeypatch.setattr(backends, "NAMES", ("torch", "onnxruntime"))
    told: list[str] = []
    model = ready(runs["classes"], log=told.append)
    right = ready(runs["classes"], "torch").classify("so so")
    assert model.classify("so so").probabilities == pytest.approx(right.probabilities, abs=1e-4)
    assert told[0].startswith("backend") and sum("taken" in line for line in told) == 1
    (taken,) = (line.split()[0] for line in told if "taken" in line)
    again: list[str] = []
    ready(runs["classes"], log=again.append).ready()
    assert again[0].startswith(f"backend {taken}, the fastest when")


def test_answers_that_are_no_numbers_are_far(runs: dict[str, Path]) -> None:
    """And one number of the right sign is not near for that."""
    loaded = load_bundle(runs["value"])
    exact = backends.encoder_program("torch", ProgramSpec(loaded, "fp32", False))
    wrong = {
        "none": lambda rows: [np.full(1, np.nan, np.float32) for _ in rows],
        "larger": lambda rows: [3 * answer for answer in exact(rows)],
    }
    none, larger = autotune.measure(wrong, [4, 9], loaded, exact)
    assert none.distance == np.inf and larger.distance == pytest.approx(2)


def test_far_answers_are_not_taken(runs: dict[str, Path]) -> None:
    loaded = load_bundle(runs["classes"])
    exact = backends.encoder_program("torch", ProgramSpec(loaded, "fp32", False))
    programs = {"exact": exact, "wrong": lambda rows: [-answer for answer in exact(rows)]}
    right, wrong = autotune.measure(programs, [4, 9], loaded, exact)
    assert right.distance < 1e-6 and wrong.distance == pytest.approx(2)
    assert len(right.milliseconds) == 2 and all(time > 0 for time in right.milliseconds)


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (
            lambda model: model.answer("Who?", "He."),
            "cannot answer questions: it was tuned for task=classes",
        ),
        (lambda model: model.classify("  "), "the text is empty"),
        (lambda model: model.fill("[MASK]"), "was fine-tuned for task=classes"),
    ],
)
def test_what_it_cannot_do(runs: dict[str, Path], ask: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        ask(ready(runs["classes"], "torch"))  # type: ignore[operator]


def test_backends_that_are_not_here(runs: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"unknown backend 'abacus'\. Known: torch, native, onnxruntime"):
        ready(runs["classes"], "abacus").ready()
    with pytest.raises(InputError, match=r"backend=torch: it has .*, not fp4"):
        ready(runs["classes"], "torch", "fp4").ready()
    with pytest.raises(InputError, match="precision=fp4: no backend has it here"):
        ready(runs["classes"], precision="fp4").ready()
