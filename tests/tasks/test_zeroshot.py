"""Perplexities and last words of a tiny GPT, against a plain loop over its logits."""

import json
import math
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from phalanx import registry
from phalanx.cli.app import app
from phalanx.convert.huggingface import export_run
from phalanx.data.examples import Row
from phalanx.data.tokenize import load_tokenizer
from phalanx.errors import InputError
from phalanx.infer.bundle import ModelBundle, load_bundle
from phalanx.tasks.score import score
from phalanx.tasks.zeroshot import Windows
from tests.infer.runs import BERT, GPT, make_run
from tests.interpreter import python

TEXT = " = Ships = \n The ship was 1 @,@ 200 tons , and its crew 's food ( bread ) was old . \n It sank in 1912 ."


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    run = tmp_path_factory.mktemp("gpt") / "run"
    make_run(run, GPT, "gpt2")
    return load_bundle(run)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "wiki.test.tokens"
    file.write_text(TEXT * 3, encoding="utf-8")
    return file


def plain(loaded: ModelBundle, tokens: list[int], stride: int) -> float:
    """Nats of all tokens but the first, each seen from the first window that has it."""
    nats, length = 0.0, loaded.context
    for target in range(1, len(tokens)):
        window = 0 if target <= length else math.ceil((target - length) / stride)
        start = window * stride
        nats -= float(loaded.logits(tokens[start:target])[-1].log_softmax(-1)[tokens[target]])
    return nats


@pytest.mark.parametrize("stride", [1, 5, 12, 100])
def test_every_token_is_predicted_once(stride: int) -> None:
    tokens = np.arange(100, 150)
    windows = Windows(tokens, 12, stride)
    targets = [label for i in range(len(windows)) for label in windows.sample(i, 0).labels if label >= 0]
    assert sorted(targets) == list(range(101, 150))
    for i in range(len(windows)):
        sample = windows.sample(i, 0)
        asked = sample.labels >= 0
        assert (sample.labels[asked] == sample.tokens[asked] + 1).all()


@pytest.mark.parametrize("stride", [4, 12])
def test_perplexity_is_that_of_a_plain_loop(gpt: ModelBundle, text: Path, stride: int) -> None:
    found = score(gpt.run, "perplexity", str(text), stride=stride).values
    written = text.read_text(encoding="utf-8")
    tokens = gpt.tokenizer.encode(written)
    nats = plain(gpt, tokens, stride)
    assert found["token_perplexity"] == pytest.approx(math.exp(nats / (len(tokens) - 1)), rel=1e-5)
    assert found["word_perplexity"] == pytest.approx(math.exp(nats / (len(written.split()) - 1)), rel=1e-4)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(written.encode()), rel=1e-5)


@torch.no_grad()
def test_perplexity_is_that_of_hugging_face(gpt: ModelBundle, text: Path, tmp_path: Path) -> None:
    """The exported model in transformers, over the same windows of the same tokens."""
    export_run(gpt.run, tmp_path / "hf")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    tokens = torch.tensor(gpt.tokenizer.encode(text.read_text(encoding="utf-8")))
    nats, length, stride = 0.0, gpt.context, 4
    for start in range(0, max(1, len(tokens) - 1 - length + stride), stride):
        window = tokens[start : start + length + 1]
        scores = theirs(window[None, :-1]).logits[0].log_softmax(-1)
        told = scores[torch.arange(len(window) - 1), window[1:]]
        nats -= float(told[0 if start == 0 else length - stride :].sum())
    found = score(gpt.run, "perplexity", str(text), stride=stride).values["token_perplexity"]
    assert found == pytest.approx(math.exp(nats / (len(tokens) - 1)), rel=1e-4)


def test_wikitext_divides_by_the_original_words(gpt: ModelBundle, text: Path) -> None:
    found = score(gpt.run, "wikitext", str(text), stride=4)
    assert f"{len(text.read_text().strip().split(' ')) - 1:,}" in found.meanings["word_perplexity"]
    assert (
        found.values["word_perplexity"] != score(gpt.run, "perplexity", str(text), stride=4).values["word_perplexity"]
    )


def test_a_limit_takes_the_first_windows(gpt: ModelBundle, text: Path) -> None:
    tokens = gpt.tokenizer.encode(text.read_text(encoding="utf-8"))[: 12 + 1 + 2 * 4]
    found = score(gpt.run, "perplexity", str(text), limit=3, stride=4)
    assert found.examples == 3
    nats = plain(gpt, tokens, 4)
    assert found.values["token_perplexity"] == pytest.approx(math.exp(nats / (len(tokens) - 1)), rel=1e-5)


def test_last_words(gpt: ModelBundle, tmp_path: Path) -> None:
    """The model's own continuation is right, another word is not."""
    context = "The ship sank"
    said = gpt.tokenizer.decode([int(gpt.logits(gpt.tokenizer.encode(context))[-1].argmax())])
    file = tmp_path / "l.jsonl"
    file.write_text(
        "".join(json.dumps({"text": f"{context} {word}"}) + "\n" for word in (said.strip() or "x", "quickly"))
    )
    found = score(gpt.run, "lambada", str(file))
    assert found.examples == 2 and [one["word"] for one in found.predictions][1] == "quickly"
    for one in found.predictions:
        labels = gpt.tokenizer.encode(f" {one['word']}")
        tokens = gpt.tokenizer.encode(context) + labels
        best = torch.stack([gpt.logits(tokens[:end])[-1] for end in range(len(tokens) - len(labels), len(tokens))])
        assert one["right"] == (best.argmax(-1).tolist() == labels)
    assert found.values["accuracy"] == sum(one["right"] for one in found.predictions) / 2


def test_texts_begin_as_the_template_of_the_tokenizer_has_it(gpt: ModelBundle, text: Path, tmp_path: Path) -> None:
    """As prompts do, and as lm-evaluation-harness scores; the first token of the text is predicted then."""
    backend = Backend.from_str(gpt.tokenizer.json())
    backend.post_processor = TemplateProcessing(single="! $A", special_tokens=[("!", 0)])
    backend.save(str(tmp_path / "llama.json"))
    make_run(tmp_path / "run", GPT, str(tmp_path / "llama.json"))
    found = score(tmp_path / "run", "perplexity", str(text), stride=4)
    tokens = [0, *gpt.tokenizer.encode(text.read_text(encoding="utf-8"))]
    assert found.values["token_perplexity"] == pytest.approx(
        math.exp(plain(gpt, tokens, 4) / (len(tokens) - 1)), rel=1e-5
    )
    assert "but one" not in found.meanings["word_perplexity"]
    limited = score(tmp_path / "run", "perplexity", str(text), limit=3, stride=4).values
    nats, told = plain(gpt, tokens[:21], 4), len(gpt.tokenizer.decode(tokens[1:21]).encode())
    assert limited["bits_per_byte"] == pytest.approx(nats / math.log(2) / told, rel=1e-5)

    (tmp_path / "l.jsonl").write_text('{"text": "The ship sank"}\n')
    context, word = [0, *gpt.tokenizer.encode("The ship")], gpt.tokenizer.encode(" sank")
    nats = -float(gpt.logits(context)[-1].log_softmax(-1)[word[0]])
    found = score(tmp_path / "run", "lambada", str(tmp_path / "l.jsonl"))
    assert len(word) == 1 and found.values["word_perplexity"] == pytest.approx(math.exp(nats), rel=1e-5)

    config = GPT.model_copy(update={"task": "completion"})
    task: Any = registry.TASKS.find("completion")(config, load_tokenizer(str(tmp_path / "llama.json")))
    (one,) = task.encode([Row("The ship", "", " sank", 1)]).encoded
    assert one.tokens.tolist() == [*context, *word]


def test_the_verb(gpt: ModelBundle, text: Path, tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["eval", str(gpt.run), "--task", "wikitext", "--data", str(text), "--limit", "2"])
    assert told.exit_code == 0, told.exception
    assert "word_perplexity" in told.stdout and "original words" in told.stdout and "examples" in told.stdout
    *_, note = told.stdout.splitlines()
    assert "Megatron paper's count" in note and "lm-eval's" in note
    (tmp_path / "l.jsonl").write_text('{"text": "a b c"}\n')
    words = ["eval", str(gpt.run), "--task", "lambada", "--data", str(tmp_path / "l.jsonl")]
    told = CliRunner().invoke(app, [*words, "--predictions", str(tmp_path / "p.jsonl")])
    assert told.exit_code == 0 and json.loads((tmp_path / "p.jsonl").read_text())["word"] == "c"


def test_a_hugging_face_folder_is_judged(gpt: ModelBundle, text: Path, tmp_path: Path) -> None:
    """As the run is that it came from."""
    export_run(gpt.run, tmp_path / "hf")
    words = ["--task", "perplexity", "--data", str(text), "--limit", "2"]
    told = CliRunner().invoke(app, ["eval", f"hf:{tmp_path / 'hf'}", *words], catch_exceptions=False)
    assert told.stdout == CliRunner().invoke(app, ["eval", str(gpt.run), *words]).stdout
    assert "tensors" in told.stderr


@pytest.mark.parametrize(
    ("task", "content", "said"),
    [
        ("lambada", '{"text": "a b c"}\n{"text": "d', "line 2: not of the form"),
        ("lambada", '{"text": "alone"}', "no last word"),
        ("lambada", '["a"]', "not of the form"),
        ("wikitext", "  \n ", "is empty"),
        ("squid", "x", "use one of"),
    ],
)
def test_bad_files(gpt: ModelBundle, tmp_path: Path, task: str, content: str, said: str) -> None:
    file = tmp_path / "file"
    file.write_text(content)
    with pytest.raises(InputError, match=said) as error:
        score(gpt.run, task, str(file))
    assert "\n" not in str(error.value)


def test_a_bert_continues_nothing(tmp_path: Path, text: Path) -> None:
    make_run(tmp_path / "run", BERT, "bert-uncased")
    with pytest.raises(InputError, match="fill masks"):
        score(tmp_path / "run", "perplexity", str(text))


@pytest.mark.parametrize(
    ("task", "words"), [("lambada", ["layout.pp=2"]), ("wikitext", ["layout.cp=2", "layout.tp=2"])]
)
def test_on_any_layout(text: Path, tmp_path: Path, task: str, words: list[str]) -> None:
    """The same scores on several processes, which hold parts of the model."""
    passages = [f"the cat of number {n} sat on the mat" for n in range(5)]
    (tmp_path / "l.jsonl").write_text("".join(json.dumps({"text": passage}) + "\n" for passage in passages))
    file = text if task == "wikitext" else tmp_path / "l.jsonl"
    model = GPT.model.model_copy(update={"layers": 2, "positions": 16})
    data = GPT.data.model_copy(update={"sequence": 16})
    make_run(tmp_path / "run", GPT.model_copy(update={"model": model, "data": data}), "gpt2")
    alone = score(tmp_path / "run", task, str(file), 5)
    command = [python(), "-m", "phalanx", "eval", str(tmp_path / "run"), *words, "--task", task, "--data", str(file)]
    told = subprocess.run([*command, "--limit", "5"], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    found = {name: float(value.replace(",", "")) for name, value in re.findall(r"^(\w+) +([\d.,]+)", told.stdout, re.M)}
    assert found == pytest.approx(alone.values, rel=1e-4, abs=1e-4)
