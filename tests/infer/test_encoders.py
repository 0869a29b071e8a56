"""What encoders beside BERT are asked: as transformers answers, with the tokenizer of the folder."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from phalanx.config import Config, DataConfig, ExamplesConfig
from phalanx.convert.huggingface import export_run
from phalanx.data.tokenize import load_tokenizer
from phalanx.infer import backends, load_encoder
from phalanx.infer.backends.protocol import ProgramSpec
from phalanx.models.family import configured
from phalanx.run.folder import RunFolder
from tests.cli.running import phalanx
from tests.convert.test_answers import CONTEXT, LABELS, LONGEST, STRIDE, Both, same_spans
from tests.data.tokenizers import WORDS, make_tokenizers
from tests.infer.runs import make_run
from tests.infer.test_bert import rows

KINDS = "roberta", "xlm-roberta", "distilbert", "modernbert"
OWN: dict[str, dict[str, Any]] = {"distilbert": {"norm_eps": 1e-12},
                                  "modernbert": {"window": 12, "global_every": 2, "pooling": "mean"}}  # fmt: skip
AUTO = {"": "MaskedLM", "classes": "SequenceClassification", "span": "QuestionAnswering",
        "tokens": "TokenClassification"}  # fmt: skip
STORY = "the old ship never comes home and über the far harbour a naïve ship sails"


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizers")
    make_tokenizers(folder)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def made(tokenizers: Path, kind: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes a model with a head here, and the same there by way of an exported folder, each once."""

    @cache
    def make(head: str) -> Both:
        folder, tokenizer = tmp_path_factory.mktemp(f"{kind}-{head}"), str(tokenizers / f"{kind}.json")
        vocab, classes = load_tokenizer(tokenizer).vocab, len(LABELS) if head == "classes" else 0
        own = OWN.get(kind, {"first_position": 2})
        model = configured(family=kind, layers=2, hidden=32, heads=4, positions=CONTEXT, vocab=vocab, init_std=0.3,
                           head=head, classes=classes, **own)  # fmt: skip
        examples = ExamplesConfig(form="squad" if head == "span" else "table", labels=LABELS if classes else (),
                                  stride=STRIDE, longest=LONGEST)  # fmt: skip
        data = DataConfig(sequence=CONTEXT, pairs="none")
        make_run(folder / "run", Config(task=head or "mlm", model=model, data=data, examples=examples), tokenizer)
        return both(folder / "run", head)

    return make


def both(run: Path, head: str) -> Both:
    """A run's model here, and there by way of an exported folder, which has their numbers of special tokens."""
    folder = run.with_name(f"{run.name}-hf")
    export_run(run, folder)
    theirs = getattr(transformers, f"AutoModelFor{AUTO[head]}").from_pretrained(folder).eval()
    tokenizer, facts = transformers.AutoTokenizer.from_pretrained(folder), theirs.config
    if facts.model_type == "modernbert":
        marks = tokenizer.cls_token_id, tokenizer.sep_token_id
        assert (facts.cls_token_id, facts.sep_token_id) == (facts.bos_token_id, facts.eos_token_id) == marks
    return Both(load_encoder(str(run), "torch"), tokenizer, theirs)


@torch.no_grad()
def test_masks_are_filled(made: Any) -> None:
    of = made("")
    text = f"the {of.tokenizer.mask_token} sails to a far {of.tokenizer.mask_token} home"
    inputs = of.tokenizer(text, return_tensors="pt")
    places = (inputs["input_ids"][0] == of.tokenizer.mask_token_id).nonzero()[:, 0].tolist()
    chances = of.theirs(**inputs).logits[0].softmax(-1)
    blanks = of.ours.fill(text, top=4)
    assert [blank.position for blank in blanks] == places and len(places) == 2
    for place, words in blanks:
        best = chances[place].topk(4)
        assert [word for word, _ in words] == [of.tokenizer.decode([i]) for i in best.indices.tolist()]
        assert [chance for _, chance in words] == pytest.approx(best.values.tolist(), abs=1e-4)


@torch.no_grad()
def test_vectors(made: Any) -> None:
    """The mean over all tokens, those around the text too; tokens may be given, with those around them or without."""
    of = made("")
    found = of.theirs.base_model(**of.tokenizer(STORY, return_tensors="pt")).last_hidden_state[0].mean(0)
    bare = of.tokenizer(STORY, add_special_tokens=False)["input_ids"]
    for text in STORY, bare, of.tokenizer(STORY)["input_ids"]:
        np.testing.assert_allclose(of.ours.embed([text])[0], found / found.norm(), atol=1e-4)


@torch.no_grad()
def test_classes_of_texts_and_pairs(made: Any) -> None:
    of = made("classes")
    texts = [STORY, (STORY, "a far harbour"), ("home", STORY * 4), "x"]
    for text, ours in zip(texts, of.ours.classified(texts), strict=True):
        first, second = text if isinstance(text, tuple) else (text, None)
        inputs = of.tokenizer(first, second, truncation=True, max_length=CONTEXT, return_tensors="pt")
        theirs = of.theirs(**inputs).logits[0].softmax(-1)
        assert [*ours.probabilities.values()] == pytest.approx(theirs.tolist(), abs=1e-4)


def test_answers(made: Any) -> None:
    """Of contexts of one window, and of several."""
    same_spans(made("span"), [("the ship", STORY), ("sails home", " ".join(WORDS * 20)), ("über", "naïve  harbour?")])


def same_answers(of: Both, name: str, hidden: bool) -> None:
    """What a backend says of ragged rows is what torch says; without it the test is skipped."""
    bundle = of.ours.bundle
    if reason := backends.unavailable(name, "encoder", bundle.spec, "fp32"):
        assert "another" not in reason, "of the machine, not of the model"
        pytest.skip(reason)
    asked = [row._replace(tokens=row.tokens % bundle.config.model.vocab) for row in rows()]
    one, other = (backends.encoder_program(each, ProgramSpec(bundle, "fp32", hidden)) for each in ("torch", name))
    for found, right in zip(other(asked), one(asked), strict=True):
        np.testing.assert_allclose(found, right, atol=1e-4)


@pytest.mark.parametrize("head", ["", "classes"])
@pytest.mark.parametrize("kind", KINDS[:3], indirect=True)
def test_the_kernels_take_them(made: Any, head: str) -> None:
    """Blocks are BERT's; what is otherwise lies under and above them."""
    same_answers(made(head), "native", hidden=not head)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", ["roberta", "modernbert"], indirect=True)
def test_graphs_take_them(made: Any, name: str) -> None:
    """Without segments, which they do not tell apart."""
    same_answers(made("classes"), name, hidden=False)


@pytest.mark.parametrize("kind", ["roberta", "modernbert"], indirect=True)
def test_it_is_tuned_and_judged(made: Any, kind: str, tmp_path: Path) -> None:
    """On pairs, on questions whose answers lie in a context, and on words. ModernBERT's heads begin with the transform
    and the norm of its pretraining, as theirs do, which have one name.
    """
    run, quick = made("").ours.bundle.run, ["train.steps=2", "train.batch=2", "train.device=cpu", "train.compile=off"]
    lines = ["the old ship\tsails home\tyes", "a far\thome\tno"] * 4
    (tmp_path / "pairs.tsv").write_text("\n".join(["sentence1\tsentence2\tlabel", *lines]))
    told = phalanx("tune", run, "--task", "rte", "--data", tmp_path / "pairs.tsv", "--out", tmp_path / "rte", *quick)
    assert "accuracy" in told
    begun = "answer.pooler.weight" not in told and "answer.norm.weight" not in told
    assert begun == (kind == "modernbert") and "at random: answer.classifier.bias, answer." in told
    assert "accuracy" in phalanx("eval", tmp_path / "rte", "--data", tmp_path / "pairs.tsv")
    assert "%" in phalanx("classify", tmp_path / "rte", "the old ship", "sails home")

    answer = {"text": "far harbour", "answer_start": STORY.index("far harbour")}
    asked = [{"id": str(n), "question": "where?", "answers": [answer]} for n in range(6)]
    squad = {"data": [{"title": "", "paragraphs": [{"context": STORY, "qas": asked}]}]}
    (tmp_path / "squad.json").write_text(json.dumps(squad))
    phalanx("tune", run, "--task", "squad", "--data", tmp_path / "squad.json", "--out", tmp_path / "squad", *quick)
    assert RunFolder.open(tmp_path / "squad").config().model.head == "span"
    assert "f1" in phalanx("eval", tmp_path / "squad", "--task", "squad", "--data", tmp_path / "squad.json")
    same_spans(both(tmp_path / "squad", "span"), [("where?", STORY), ("a ship", STORY * 2)])

    (tmp_path / "names.txt").write_text("the O\nold O\nship B-X\n\nfar B-X\nharbour I-X\n" * 5)
    phalanx("tune", run, "--task", "tokens", "--data", tmp_path / "names.txt", "--out", tmp_path / "tags", *quick)
    assert "f1" in phalanx("eval", tmp_path / "tags", "--data", tmp_path / "names.txt")
    same_tags(both(tmp_path / "tags", "tokens"))


@torch.no_grad()
def same_tags(of: Both) -> None:
    """The logits of every token are theirs."""
    row = of.ours.assemble.join(*of.ours.assemble.encode([STORY]))
    [found] = of.ours.scores([row])
    inputs = of.tokenizer(STORY, return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == row.tokens.tolist()
    np.testing.assert_allclose(found, of.theirs(**inputs).logits[0], atol=1e-4)
