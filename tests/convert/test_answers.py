"""An exported BERT answers by transformers as it does here: the same tokens of pairs, the same spans, the same classes.

Weights are random and wide, so that every token and every segment counts. What differs by rule is told to transformers
or kept out of the way. Windows over a long context begin every `examples.stride` tokens, as in Google's run_squad.py;
`stride` of transformers is what they overlap, so its examples read the contexts beyond one window, 1.5 % of SQuAD's, in
other windows. Of a pair too long for an even split its fast tokenizers keep one more token of the longer text, Google's
loop and ours of the first: with an odd number of positions the split is even. No question is longer than 64 tokens.
"""

import csv
import itertools
import json
import lzma
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Backend
from tokenizers import normalizers
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertTokenizer,
    GPT2Tokenizer,
)

from phalanx.config import Config, DataConfig, ExamplesConfig
from phalanx.convert.huggingface import export_run, import_folder
from phalanx.data.tokenize import load_tokenizer
from phalanx.infer import load_encoder
from phalanx.infer.encoder_model import EncoderModel
from phalanx.models.family import configured
from tests.infer.runs import GPT, make_run

CONTEXT, STRIDE, LONGEST = 161, 48, 30
LABELS = ("entailment", "neutral", "contradiction")
NOVEL = Path(__file__).parents[2] / "src/phalanx/assets/novels"


class Both(NamedTuple):
    """One model here and there."""

    ours: EncoderModel
    tokenizer: Any
    theirs: Any


def both(folder: Path, head: str, norm_first: bool, tokenizer: str = "bert-uncased") -> Both:
    vocab = 28996 if tokenizer == "bert-cased" else 30522
    model = configured(
        family="bert", layers=2, hidden=32, heads=4, positions=CONTEXT, vocab=vocab, segments=2, gelu="erf",
        norm_first=norm_first, init_std=0.5, head=head, classes=len(LABELS) if head == "classes" else 0,
    )  # fmt: skip
    examples = ExamplesConfig(
        form="squad" if head == "span" else "table", labels=LABELS if head == "classes" else (), stride=STRIDE,
        longest=LONGEST,
    )  # fmt: skip
    config = Config(task=head, model=model, data=DataConfig(sequence=CONTEXT), examples=examples)
    make_run(folder / "run", config, tokenizer)
    export_run(folder / "run", folder / "hf")
    kind: Any = AutoModelForQuestionAnswering if head == "span" else AutoModelForSequenceClassification
    theirs = kind.from_pretrained(folder / "hf").eval()
    return Both(load_encoder(str(folder / "run"), "torch"), AutoTokenizer.from_pretrained(folder / "hf"), theirs)


@pytest.fixture(scope="module", params=[False, True], ids=["post-LN", "pre-LN"])
def span(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return both(tmp_path_factory.mktemp("span"), "span", request.param)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return both(tmp_path_factory.mktemp("classes"), "classes", False)


@torch.no_grad()
def their_span(of: Both, question: str, context: str) -> tuple[int, int, float]:
    """First and last character of the likeliest span, and by how much the next one is less likely."""
    asked = len(of.tokenizer(question, add_special_tokens=False)["input_ids"])
    room = CONTEXT - of.tokenizer.num_special_tokens_to_add(pair=True)
    rows = of.tokenizer(
        question, context, truncation="only_second", max_length=CONTEXT, stride=max(0, room - asked - STRIDE),
        return_overflowing_tokens=True, return_offsets_mapping=True, padding=True, return_tensors="pt",
    )  # fmt: skip
    inputs = {name: rows[name] for name in of.tokenizer.model_input_names}
    answer = of.theirs(**inputs)
    found = []
    for n in range(len(rows["input_ids"])):
        inside = [at for at, sequence in enumerate(rows.sequence_ids(n)) if sequence == 1]
        begin, end = answer.start_logits[n][inside].numpy(), answer.end_logits[n][inside].numpy()
        sums = begin[:, None] + end[None]
        apart = np.arange(len(inside))[None] - np.arange(len(inside))[:, None]
        sums = np.where((apart >= 0) & (apart < LONGEST), sums, -np.inf)
        for place in np.argsort(sums, axis=None)[-9:]:
            a, b = divmod(int(place), len(inside))
            places = rows["offset_mapping"][n][inside]
            found.append((float(sums[a, b]), int(places[a][0]), int(places[b][1])))
    (score, start, stop), *others = sorted(found, reverse=True)
    rival = next((other for other, *where in others if where != [start, stop]), -np.inf)
    return start, stop, score - rival


def same_spans(of: Both, asked: Sequence[tuple[str, str]]) -> None:
    """Each span of theirs is ours, apart from such as two spans are as likely to the last digits."""
    for (question, context), ours in zip(asked, of.ours.answers(asked), strict=True):
        start, stop, lead = their_span(of, question, context)
        assert (ours.start, ours.stop) == (start, stop) or lead < 1e-4, (question, ours, context[start:stop], lead)


def made(count: int) -> Iterator[tuple[str, str]]:
    """Sentences of a novel as questions, what follows as contexts, of a line to many windows."""
    file = sorted(NOVEL.glob("*.xz"))[0]
    words = lzma.decompress(file.read_bytes()).decode().split()
    for number in range(count):
        at = 200 * number
        yield " ".join(words[at : at + 5 + number % 20]), " ".join(words[at + 30 : at + 60 + 37 * (number % 13)])


@pytest.mark.slow
def test_spans_of_texts_made_here(span: Both) -> None:
    strange = [
        ("Où est Zoë?", "Zoë’s naïve café — 中文 in “Paris”, don't… 😀 it costs £5.00!\n\n\tNew\u00a0line\u200b." * 9),
        ("?", "a"), ("who " * 64, "He came home. " * 200),
    ]  # fmt: skip
    same_spans(span, [*made(40), *strange])


@pytest.mark.parametrize("span", [False], indirect=True, ids=["post-LN"])
def test_spans_of_squad(span: Both, data_dir: Path) -> None:
    """A hundred questions of SQuAD, and the longest contexts that it has."""
    read = json.loads((data_dir / "eval" / "squad_v1.1" / "dev-v1.1.json").read_text())
    parts = [part for article in read["data"] for part in article["paragraphs"]]
    longest = sorted(parts, key=lambda part: -len(part["context"]))[:10]
    same_spans(
        span, [(part["qas"][0]["question"], part["context"]) for part in [*parts[:: len(parts) // 100], *longest]]
    )


@torch.no_grad()
def same_classes(of: Both, pairs: Sequence[tuple[str, str]]) -> None:
    """The probabilities of their classes are ours; pairs longer than the model sees are cut alike."""
    rows = of.tokenizer(
        [a for a, _ in pairs], [b for _, b in pairs], truncation=True, max_length=CONTEXT, padding=True,
        return_tensors="pt",
    )  # fmt: skip
    theirs = of.theirs(**rows).logits.softmax(-1).numpy()
    ours = np.array([list(one.probabilities.values()) for one in of.ours.classified(pairs)])
    assert list(of.ours.classified(pairs[:1])[0].probabilities) == list(of.theirs.config.id2label.values())
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_classes_of_pairs_made_here(classes: Both) -> None:
    pairs = list(made(40))
    same_classes(classes, pairs)
    same_classes(classes, [(b, a) for a, b in pairs])
    same_classes(classes, [(b, d) for (_, b), (_, d) in itertools.pairwise(pairs)])


@pytest.mark.parametrize("task", ["mnli", "rte"])
def test_classes_of_glue(classes: Both, task: str, data_dir: Path) -> None:
    glue = data_dir / "eval" / "glue"
    if task == "mnli":
        rows = map(json.loads, (glue / "mnli_dev_matched.jsonl").read_text().splitlines()[:100])
        same_classes(classes, [(row["premise"], row["hypothesis"]) for row in rows])
    else:
        with (glue / "rte" / "dev.tsv").open() as file:
            table = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[:100]
        same_classes(classes, [(row["sentence1"], row["sentence2"]) for row in table])


TEXTS = ("Élan naïve: don't, 中文!", "The U.S.A.\u200b cost £5 — “all”", " two  blanks\n", "x" * 150, "")


@pytest.mark.parametrize("name", ["bert-uncased", "bert-cased"])
def test_a_tokenizer_of_bert_goes_out_with_its_class(name: str, tmp_path: Path) -> None:
    of = both(tmp_path, "value", False, name)
    theirs, ours = of.tokenizer, of.ours.assemble
    assert type(theirs) is BertTokenizer and theirs.model_max_length == CONTEXT
    assert theirs.model_input_names == ["input_ids", "token_type_ids", "attention_mask"]
    facts = json.loads((tmp_path / "hf" / "tokenizer_config.json").read_text())
    assert facts["tokenizer_class"] == "BertTokenizer" and facts["do_lower_case"] == (name == "bert-uncased")
    for pair in itertools.product(TEXTS, TEXTS[:-1]):  # an empty second text is to transformers none at all
        rows, mine = theirs(*pair), ours.join(*ours.encode(pair))
        assert rows["input_ids"] == mine.tokens.tolist()
        assert sum(rows["token_type_ids"]) == len(mine.tokens) - mine.second
    assert theirs.mask_token_id == of.ours.bundle.tokenizer.mask and theirs.pad_token_id == ours.pad
    import_folder(tmp_path / "hf", tmp_path / "again")
    assert load_encoder(str(tmp_path / "again"), "torch").bundle.tokenizer.encode("Élan") == ours.tokenizer.encode(
        "Élan"
    )


@pytest.mark.slow
def test_a_tokenizer_of_gpt2_goes_out_with_its_class(tmp_path: Path) -> None:
    [_] = make_run(tmp_path / "run", GPT, "gpt2")
    export_run(tmp_path / "run", tmp_path / "hf")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert type(theirs) is GPT2Tokenizer and theirs.model_max_length == GPT.model.positions
    assert theirs.model_input_names == ["input_ids", "attention_mask"] and theirs.eos_token == "<|endoftext|>"
    ours = load_tokenizer("gpt2")
    assert all(theirs(text)["input_ids"] == ours.encode(text) for text in TEXTS)
    assert len(theirs) == ours.vocab


def test_a_tokenizer_of_another_kind_goes_out_as_it_is(tmp_path: Path) -> None:
    """BERT's class would put its own normalizer in place of one that it does not know."""
    backend = Backend.from_str(load_tokenizer("bert-uncased").json())
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.BertNormalizer()])
    backend.save(str(tmp_path / "other.json"))
    of = both(tmp_path, "value", False, str(tmp_path / "other.json"))
    assert of.tokenizer("ﬁne", "x")["input_ids"][1:-3] == of.ours.bundle.tokenizer.encode("fine")
    assert of.tokenizer("fine", "x")["token_type_ids"] == [0, 0, 0, 1, 1]
