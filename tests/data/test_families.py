"""Tokenizers of every family give the ids that transformers gives, on the fast path too, and begin a text once."""

import os
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from phalanx.data.tokenize import Tokenizer, load_tokenizer
from tests.data.families import FAMILIES, strings

FOLDER = "PHALANX_TOKENIZERS"  # names a folder with one folder for each tokenizer
FAST = {"llama3", "qwen", "gpt4o", "nemo", "smollm"}


def in_bulk(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """The ids of the texts, encoded a few at once: what the fast path does not know falls to the library with its
    neighbours.
    """
    ids = []
    for i in range(0, len(texts), 4):
        tokens, lengths = tokenizer.encode_joined(texts[i : i + 4])
        ids += [part.tolist() for part in np.split(tokens, np.cumsum(lengths)[:-1])]
    return ids


def check(ours: Tokenizer, theirs: PreTrainedTokenizerBase, texts: list[str]) -> None:
    """Compare the ids of texts as they are, in bulk too, and of prompts, in which names of special tokens are those."""
    assert max(theirs.get_vocab().values()) + 1 == ours.vocab
    expected = theirs(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    for text, ids, found in zip(texts, expected, in_bulk(ours, texts), strict=True):
        assert found == ids, repr(text)
    assert [ours.encode(text) for text in texts[:500]] == expected[:500]

    prompts, begin = ours.for_prompts(), ours.begin
    for text, ids in zip(texts, theirs(texts)["input_ids"], strict=True):
        twice = begin and ids[: 2 * len(begin)] == begin * 2
        assert prompts.encode_prompt(text) == (ids[len(begin) :] if twice else ids), repr(text)


@pytest.mark.parametrize("family", FAMILIES)
def test_ids_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    FAMILIES[family]().save(str(file))
    ours = load_tokenizer(str(tmp_path))
    assert ours.frees_lock == (family in FAST)
    check(ours, PreTrainedTokenizerFast(tokenizer_file=str(file)), strings(2000))
    ours.save(tmp_path / "copy.json")
    copy = load_tokenizer(str(tmp_path / "copy.json"))
    assert copy.json() == ours.json() == (tmp_path / "copy.json").read_text(), "sets and runs tell tokenizers by it"
    assert copy.for_prompts().json() == ours.json() and copy.same_ids(ours)


@pytest.mark.slow
def test_ids_of_published_tokenizers_are_those_of_transformers(data_dir: Path, subtests: pytest.Subtests) -> None:
    """Of the folders in PHALANX_TOKENIZERS, on 20,000 random strings and texts in 24 languages."""
    if not os.environ.get(FOLDER):
        pytest.skip(f"{FOLDER} names no folder of tokenizers")
    lines = [
        line for file in sorted((data_dir / "multilingual").rglob("*.dev")) for line in file.read_text().split("\n")
    ]
    texts = [*lines, *("\n".join(lines[i : i + 50]) for i in range(0, len(lines), 50)), *strings(20_000)]

    for folder in sorted(Path(os.environ[FOLDER]).iterdir()):
        with subtests.test(msg=folder.name):
            check(load_tokenizer(str(folder)), reference(folder), texts)


def reference(folder: Path) -> PreTrainedTokenizerBase:
    """What transformers makes of a folder; of tokenizer.json alone where its class passes over how that cuts texts."""
    theirs = AutoTokenizer.from_pretrained(folder)
    file = Backend.from_file(str(folder / "tokenizer.json"))
    same = all(
        str(getattr(theirs._tokenizer, part)) == str(getattr(file, part)) for part in ("normalizer", "pre_tokenizer")
    )
    return theirs if same else PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
