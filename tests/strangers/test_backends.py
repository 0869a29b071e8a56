"""Backends from outside compute what is asked of a model, in a terminal and on a server; what they do not know they
refuse by name."""

import re
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phalanx.errors import InputError, ModelError
from phalanx.infer import artifact_cache, load, load_encoder
from phalanx.infer.bundle import ModelBundle, load_bundle
from phalanx.infer.traced import TracedEncoder, untraceable
from phalanx.models.family import configured, spec_of
from phalanx.serve.messages import Failed, Job, Ready, Reply, WorkerSpec, decode, encode
from tests.cli.running import phalanx
from tests.infer.runs import BERT, GPT, make_run
from tests.infer.test_bert import config
from tests.serve.in_process import work_forked
from tests.train.processes import start

HERE = "tests.strangers.backends"
CHOICE = BERT.model_copy(update={"model": BERT.model.tuned("choice", 2), "task": "choice"})
AROUND = BERT.model_copy(
    update={"model": configured(family="tests.strangers.encoders:Around", layers=1, hidden=16, heads=2, positions=16,
                                vocab=30522, init_std=0.5)}
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backends")
    kinds = {"classes": config("classes"), "span": config("span"), "plain": config(""), "choice": CHOICE,
             "around": AROUND}  # fmt: skip
    for name, kind in kinds.items():
        make_run(folder / name, kind, "bert-uncased")
    make_run(folder / "gpt", GPT, "gpt2")
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["answer", "span", "Who came?", "Zoë came, and so did her sister, long after all the others had gone."],
        ["classify", "classes", "a fine film", "and a long one"],
        ["fill", "plain", "the [MASK] sat on the [MASK]"],
        ["generate", "gpt", "It was", "--greedy", "--tokens", 20],
        ["generate", "gpt", "It was a dark", "--seed", 3, "--tokens", 20],
    ],
    ids=lambda words: words[0],
)
def test_it_says_what_torch_says(runs: Path, words: list[Any]) -> None:
    """In windows of a long text, of pairs, past a decoder's context."""
    verb, run, *asked = words
    ours, theirs = (phalanx(verb, runs / run, *asked, "--backend", each) for each in ("torch", f"{HERE}:Both"))
    assert theirs == ours != ""


def test_vectors(runs: Path, tmp_path: Path) -> None:
    texts = "a cat", "a much longer text about a cat"
    phalanx("embed", runs / "plain", *texts, "--out", tmp_path / "v.npy", "--backend", f"{HERE}:Plain")
    right = load_encoder(runs / "plain", "torch").embed(texts)
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), right, atol=1e-5)


class Served:
    """A server's end of a worker's socket."""

    def __init__(self, specs: list[WorkerSpec]) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(100)
        self.stream = self.socket.makefile("rb")
        self.process = start(work_forked, specs, theirs)
        theirs.close()

    def ask(self, model: str, kind: str, **asked: Any) -> Any:
        self.socket.sendall(encode(Job(1, model, kind, asked, time.monotonic() + 600)))
        parts = []
        while not parts or not parts[-1].last:
            parts.append(decode(self.stream))
            assert isinstance(parts[-1], Reply) and parts[-1].status == 200, parts[-1]
        return [part.result for part in parts]

    def close(self) -> None:
        self.stream.close()
        self.socket.close()
        self.process.join()


@pytest.fixture
def served(runs: Path) -> Iterator[Served]:
    made = Served([WorkerSpec(name, str(runs / name), f"{HERE}:Both", "fp32") for name in ("classes", "plain", "gpt")])
    yield made
    made.close()


def test_it_is_served(runs: Path, served: Served) -> None:
    ready = decode(served.stream)
    assert isinstance(ready, Ready) and ready.models["gpt"]["can"] == ["complete"]
    (classified,) = served.ask("classes", "classify", text="a fine film", pair="")
    right = load_encoder(runs / "classes", "torch").classify("a fine film")
    assert classified["probabilities"] == pytest.approx(right.probabilities, abs=1e-5)

    (embedded,) = served.ask("plain", "embed", texts=["a cat"])
    np.testing.assert_allclose(embedded["vectors"], load_encoder(runs / "plain", "torch").embed(["a cat"]), atol=1e-5)

    told = served.ask("gpt", "complete", prompt="It was", options={"max_tokens": 8, "temperature": 0})
    whole = phalanx("generate", runs / "gpt", "It was", "--greedy", "--tokens", 8, "--backend", "torch")
    assert "It was" + "".join(part["text"] for part in told) == whole.removesuffix("\n")


def test_a_server_says_what_it_does_not_know(runs: Path) -> None:
    served = Served([WorkerSpec("around", str(runs / "around"), f"{HERE}:Plain", "fp32")])
    assert decode(served.stream) == Failed(f"backend={HERE}:Plain: it does not know rms norms")
    served.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("embed RUNS/around a --out RUNS/v.npy --backend HERE:Plain", "backend=HERE:Plain: it does not know rms norms"),
        ("answer RUNS/choice a b --backend HERE:Plain", "backend=HERE:Plain: it does not know the head choice"),
        ("fill RUNS/plain [MASK] --backend HERE:Plain --precision int8", "backend=HERE:Plain: it has fp32, not int8"),
        ("generate RUNS/gpt a --backend HERE:Uncached --precision bf16", "backend=HERE:Uncached: it has fp32, not bf"),
        ("generate RUNS/gpt a --backend HERE:Plain", "backend=HERE:Plain: it computes no decoders; use auto, torch, "),
        ("fill RUNS/plain [MASK] --backend HERE:Uncached", "backend=HERE:Uncached: it computes no encoders; use"),
        ("fill RUNS/plain [MASK] --backend HERE:Spec", "backend 'HERE:Spec' is none: it has no unavailable"),
        ("fill RUNS/plain [MASK] --backend HERE:None_", "backend 'HERE:None_' cannot be loaded: module"),
        ("fill RUNS/plain [MASK] --backend tensorflow", "unknown backend 'tensorflow'; did you mean 'tensorrt'?"),
        ("embed RUNS/around a --out RUNS/v.npy --backend native", "backend=native: it computes models of GPT-2's and"),
        ("generate RUNS/gpt a --backend openvino", "backend=openvino: it computes no decoders; use auto, torch"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name(runs: Path, words: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        phalanx(*words.replace("RUNS", str(runs)).replace("HERE", HERE).split())
    assert str(caught.value).startswith(said.replace("HERE", HERE)) and "\n" not in str(caught.value)
    assert not (runs / "v.npy").exists()


def test_a_benchmark_leaves_out_what_is_unavailable(runs: Path) -> None:
    words = [
        "--backends",
        f"torch,native,{HERE}:Plain",
        "--precision",
        "fp32",
        "--batch",
        1,
        "--lengths",
        8,
        "--rounds",
        1,
    ]
    told = phalanx("bench", "infer", runs / "around", *words)
    assert f"{HERE}:Plain fp32: it does not know rms norms\n" in told and "native fp32: it computes models of" in told
    assert "hugging face: " in told and [line.split()[0] for line in told.splitlines() if " / " in line] == ["torch"]
    assert f"{HERE}:Plain fp32  " in phalanx("bench", "infer", runs / "plain", *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("fill RUNS/plain [MASK] --backend HERE:Sideways", "an answer is (16, 3), and (3, 16) was expected"),
        ("fill RUNS/plain [MASK] --backend HERE:Fewer", "it gave 0 answers to 1 questions"),
        ("generate RUNS/gpt a --seed 1 --backend HERE:Wide", "an answer is (1, 50258), and (1, 50257) was expected"),
        ("generate RUNS/gpt a --greedy --backend HERE:Wide", "an answer is (2,), and (1,) was expected"),
    ],
)
def test_answers_of_another_shape_are_not_taken(runs: Path, words: str, said: str) -> None:
    with pytest.raises(ModelError, match=re.escape(f"is broken: {said}")):
        phalanx(*words.replace("RUNS", str(runs)).replace("HERE", HERE).split())


def test_a_decoder_beside_encoders_is_computed_all_the_same(runs: Path) -> None:
    """Where all models of a server are given one backend; it is said."""
    told: list[str] = []
    load(runs / "gpt", f"{HERE}:Plain", log=told.append)
    assert told[0].startswith(f"phalanx: backend={HERE}:Plain computes no decoders; {runs / 'gpt'} is computed as by")


def test_graphs_are_of_all_heads_and_of_decoders_of_one_kind() -> None:
    for model in (AROUND.model, BERT.model, CHOICE.model, GPT.model):
        assert untraceable(spec_of(model)) == ""
    assert "decoders of GPT-2's kind alone" in untraceable(spec_of(configured(family="llama", layers=1, vocab=9)))


@pytest.mark.slow
def test_an_encoder_of_another_kind_has_a_graph(runs: Path) -> None:
    """Which is right for other rows than those it was traced with."""
    bundle = load_bundle(runs / "around")
    graph = TracedEncoder(bundle)
    examples, free = zip(*graph.inputs.values(), strict=True)
    traced = torch.export.export(graph, examples, dynamic_shapes=free, strict=False).module()

    tokens = torch.arange(700, 722).view(2, 11)
    mask = torch.ones_like(tokens)
    mask[1, 5:] = 0
    (logits,) = traced(tokens, mask)  # it tells no segments apart
    torch.testing.assert_close(logits[0, :, :30522], bundle.logits(tokens[0].tolist()), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits[1, :5, :30522], bundle.logits(tokens[1, :5].tolist()), atol=1e-4, rtol=1e-4)


def test_what_is_kept_is_of_one_description(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family whose file was edited makes another network of the same keys and weights."""
    bundle = load_bundle(runs / "around")
    before, spec = artifact_cache.key(bundle, "onnx"), bundle.spec
    edited = replace(spec, blocks=tuple(replace(block, norm_first=False) for block in spec.blocks))
    monkeypatch.setattr(ModelBundle, "spec", edited)
    assert artifact_cache.key(bundle, "onnx") != before
