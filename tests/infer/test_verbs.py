"""phalanx answer, classify, embed, bench infer: what the functions say, in a terminal."""

import json
from pathlib import Path

import numpy as np
import pytest

from phalanx.errors import InputError
from phalanx.infer import load, load_decoder, load_encoder
from phalanx.infer.encoder_model import EncoderModel
from tests.cli.running import phalanx
from tests.infer.runs import GPT, make_run
from tests.infer.test_bert import config


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for head in ("classes", "value", "span", ""):
        make_run(folder / (head or "plain"), config(head), "bert-uncased")
    make_run(folder / "gpt", GPT, "gpt2")
    return folder


def test_answer(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text("Zoë did it.", encoding="utf-8")
    found = load_encoder(runs / "span", "torch").answer("Who?", "Zoë did it.")
    assert phalanx("answer", runs / "span", "Who?", f"@{tmp_path / 'story.txt'}") == (
        f"{found.text}  (characters {found.start} to {found.stop})\n"
    )


def test_texts_of_files(runs: Path, tmp_path: Path) -> None:
    """Stand for what is in them but for the newline at the end."""
    for verb, run, text in (
        ("generate", "gpt", "It was"), ("fill", "plain", "a [MASK] film"), ("classify", "classes", "a film"),
    ):  # fmt: skip
        (tmp_path / verb).write_text(f"{text}\n")
        assert phalanx(verb, runs / run, f"@{tmp_path / verb}") == phalanx(verb, runs / run, text)


def test_classify(runs: Path) -> None:
    chances = load_encoder(runs / "classes", "torch").classify("a film").probabilities
    lines = phalanx("classify", runs / "classes", "a film").splitlines()
    assert lines == [f"{label}  {p:.1%}" for label, p in sorted(chances.items(), key=lambda item: -item[1])]
    value = load_encoder(runs / "value", "torch").values([("a", "b")])[0]
    assert phalanx("classify", runs / "value", "a", "b") == f"{value:.4f}\n"


def test_embed(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("a cat\n\na dog\n")
    phalanx("embed", runs / "plain", f"@{tmp_path / 'texts'}", "a bird", "--out", tmp_path / "v.npy")
    right = load_encoder(runs / "plain", "torch").embed(["a cat", "a dog", "a bird"])
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), right)


def test_bench(runs: Path, tmp_path: Path) -> None:
    """Every cell has a figure for each program; ragged rows are one of the cells."""
    words = ["--rounds", 2, "--backends", "torch", "--precision", "fp32,fp16", "--batch", "1,2", "--lengths", "8,999"]
    told = phalanx("bench", "infer", runs / "span", *words, "--out", tmp_path / "b.json")
    assert "torch fp16: it has" in told
    cells = json.loads((tmp_path / "b.json").read_text())
    assert [cell["name"] for cell in cells] == ["1 x 8", "2 x 8", "1 x 16", "2 x 16", "ragged"]
    assert all(set(cell["p50"]) == {"torch fp32", "hugging face fp32"} for cell in cells)
    assert all(0 < cell["p50"][each] <= cell["p99"][each] for cell in cells for each in cell["p50"])
    with pytest.raises(InputError, match="is no BERT"):
        phalanx("bench", "infer", "gpt-tiny")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("bench infer RUNS/span --lengths 0", "--lengths '0' is no list of numbers from 1 on"),
        ("bench infer RUNS/span --batch x", "--batch 'x' is no list of numbers from 1 on"),
        ("bench infer RUNS/gpt", "is no BERT"),
        ("embed RUNS/plain a --out RUNS", "is a folder; name a file"),
        ("embed RUNS/plain a --out RUNS/none/v.npy", "its folder is not there"),
        ("embed RUNS/plain @/dev/null --out RUNS/v.npy", "no texts"),
        ("answer RUNS/span who @", "@ names no file"),
        ("generate RUNS/gpt @nosuch", "@nosuch: No such file or directory; a text that begins with @ names its file"),
        ("fill RUNS/plain @RUNS", "Is a directory"),
        ("generate RUNS/gpt a --backend onnxruntime", "it computes no decoders; use auto, torch, native"),
        (
            "generate RUNS/gpt a layout.tp=2 --backend native",
            "backend=native: a model on a layout is computed by torch",
        ),
        (
            "generate RUNS/gpt a layout.tp=2 --precision int8",
            "--precision int8 is not for a layout; say precision.dtype=",
        ),
        ("generate RUNS/gpt a --precision fp4", "precision=fp4: no backend has it here; use fp32"),
        ("generate RUNS/gpt a --temperature inf", "temperature=inf is out of range"),
    ],
)
def test_refusals(runs: Path, words: str, said: str) -> None:
    with pytest.raises(InputError) as told:
        phalanx(*words.replace("RUNS", str(runs)).split())
    assert said in str(told.value)
    assert not list(runs.parent.glob("*.partial"))


def test_the_right_kind(runs: Path) -> None:
    assert isinstance(load(runs / "span", "torch"), EncoderModel)
    with pytest.raises(InputError, match="learned to continue a text"):
        load_encoder(runs / "gpt")
    with pytest.raises(InputError, match="learned to fill masks"):
        load_decoder(runs / "plain")
