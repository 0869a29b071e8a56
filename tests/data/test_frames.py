"""Special tokens around an encoder's texts: those of the tokenizer's own template, as transformers puts them there."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from phalanx.config import DataConfig
from phalanx.data.bert import BertSource
from phalanx.data.examples import Question
from phalanx.data.labelled import Assembler
from phalanx.data.prepare import PrepareOptions, prepare
from phalanx.data.source import open_sets
from phalanx.data.tokenize import Frame, load_tokenizer
from phalanx.data.windows import windows
from tests.data.tokenizers import WORDS, make_tokenizers

TEXTS = ("the old ship", " a  harbour", "Naïve über-ship, never?", "x" * 40, "home\nagain", "a    ship   sails")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of each kind: RoBERTa's, XLM-RoBERTa's, ModernBERT's, and BERT's, which DistilBERT has."""
    made = tmp_path_factory.mktemp("tokenizers")
    make_tokenizers(made)
    return made


KINDS = {
    "roberta": Frame((0,), (2, 2), (2,)), "xlm-roberta": Frame((0,), (2, 2), (2,)),
    "modernbert": Frame((318,), (319,), (319,)),
    "distilbert": Frame((2,), (3,), (3,)),  # it has no template of its own
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_frames(folder: Path, kind: str) -> None:
    assert load_tokenizer(str(folder / f"{kind}.json")).frame == KINDS[kind]


def test_older_folders_of_roberta_have_its_template(folder: Path, tmp_path: Path) -> None:
    """Of vocab.json and merges.txt, which say nothing of it."""
    model = json.loads((folder / "roberta.json").read_text())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text("\n".join(" ".join(pair) for pair in model["merges"]))
    old, new = load_tokenizer(str(tmp_path)), load_tokenizer(str(folder / "roberta.json"))
    assert old.frame == new.frame == KINDS["roberta"] and old.mask == new.mask
    text = "the <mask> sails, <s>"
    assert old.encode(text) == new.encode(text) and old.for_prompts().encode(text) == new.for_prompts().encode(text)


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "modernbert"])
def test_texts_and_pairs_are_theirs(folder: Path, kind: str) -> None:
    """Cut too where they are longer than the model sees."""
    file = str(folder / f"{kind}.json")
    theirs = PreTrainedTokenizerFast(tokenizer_file=file)
    length = 20 + theirs.num_special_tokens_to_add(pair=True)  # 20 are split evenly, as theirs splits no odd number
    assemble = Assembler(load_tokenizer(file), length)
    for a, text in zip(assemble.encode(TEXTS), TEXTS, strict=True):
        assert assemble.join(a).tokens.tolist() == theirs(text, truncation=True, max_length=length)["input_ids"]
        for b, other in zip(assemble.encode(TEXTS), TEXTS, strict=True):
            rows, mine = theirs(text, other, truncation=True, max_length=length), assemble.join(a, b)
            assert mine.tokens.tolist() == rows["input_ids"]
            second = mine.tokens[mine.second : -1]
            assert len(second) and second.tolist() == b[: len(second)].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_words_of_a_sentence_are_as_in_it(folder: Path, kind: str) -> None:
    """As transformers reads lists of words: of byte-level BPE, whose words carry the blank before them, with blanks."""
    assemble = Assembler(load_tokenizer(str(folder / f"{kind}.json")), 64)
    blanks = kind in ("roberta", "modernbert")
    assert assemble.tokenizer.marks_blanks == blanks
    words = WORDS[:6]
    [whole] = assemble.encode([" " * blanks + " ".join(words)])
    assert np.concatenate(assemble.encode_words(words)).tolist() == whole.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_answers_lie_where_the_context_says(folder: Path, kind: str) -> None:
    """The tokens that are labelled are those of the answer, behind however many tokens stand between."""
    tokenizer = load_tokenizer(str(folder / f"{kind}.json"))
    context = "the old ship sails to a far harbour"
    encoded, parts = windows([Question("", "a ship", context, ((13, "sails"),))], Assembler(tokenizer, 64), 8)
    [sample], [window] = encoded, parts
    assert sample.labels is not None
    begin, end = (int((sample.labels & bit > 0).argmax()) for bit in (1, 2))
    assert tokenizer.decode(sample.tokens[begin : end + 1]).strip() == "sails"
    places = window.places[[begin - window.first, end - window.first]]
    assert context[places[0][0] : places[1][1]].strip() == "sails"


def test_samples_of_a_roberta(folder: Path, tmp_path: Path) -> None:
    """One text each, of one document, between <s> and </s>: documents are prepared without them."""
    tokenizer, dice = load_tokenizer(str(folder / "roberta.json")), random.Random(2)
    lines = [" ".join(dice.choices(WORDS, k=dice.randint(1, 60))) for _ in range(30)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    options = PrepareOptions(str(folder / "roberta.json"), "line")
    prepare([str(tmp_path / "text.txt")], str(tmp_path / "set"), options)
    [(held, _)] = open_sets([str(tmp_path / "set")])
    assert (held.first, held.last) == (0, 30)
    source = BertSource(held, tokenizer, DataConfig(sequence=32, pairs="none", short_fraction=0.0), 1)
    for i in range(len(source)):
        sample = source.sample(i, 0)
        tokens = np.where(sample.labels >= 0, sample.labels, sample.tokens)
        used = 32 if sample.document is None else int((sample.document == 0).sum())
        assert tokens[0] == 0 and tokens[used - 1] == 2 and (tokens[used:] == 1).all()
        assert not np.isin(tokens[1 : used - 1], [0, 1, 2]).any()
        assert (sample.labels[[0, used - 1]] == -1).all() and (sample.labels >= 0).any()
        assert sample.segment is not None and not sample.segment.any()
