"""A task's data: whose tokenizer, which documents, and sets that Megatron itself wrote."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from phalanx.config import Config, DataConfig
from phalanx.data.gpt import GPTSource
from phalanx.data.prepare import PrepareOptions, prepare
from phalanx.data.source import Blend, Documents
from phalanx.data.tokenize import Tokenizer, load_tokenizer
from phalanx.errors import InputError
from phalanx.tasks import sources
from phalanx.tasks.clm import CausalLM
from tests.data.sets import FIRST, VOCAB, numbered, write_set


class OfFive(CausalLM):
    """Samples of five tokens."""

    def __init__(self, data: DataConfig) -> None:
        super().__init__(Config.model_validate({"data": data, "train": {"seed": 1}}), load_tokenizer("gpt2"))

    def source(self, documents: Documents) -> GPTSource:
        return GPTSource(documents, 5, VOCAB, None, False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sets made with two tokenizers: `gpt` and `more` with one, `bert` with the other."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "text.txt").write_text("The cat sat. It slept.\nThe dog ran. It barked.\n")
    for name, tokenizer in (("gpt", "gpt2"), ("more", "gpt2"), ("bert", "bert-uncased")):
        options = PrepareOptions(tokenizer, "line", sentences=name == "bert", workers=1)
        prepare([str(folder / "text.txt")], str(folder / name), options)
    return folder


@pytest.fixture(scope="module")
def megatron(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A set written by Megatron, and the folder of its tokenizer."""
    fixture, folder = data_dir / "fixtures" / "megatron_indexed", tmp_path_factory.mktemp("tiny")
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(fixture / f"gpt2-tiny-{name}", folder / name)
    return str(fixture / "meg-gpt2-openwebtext_text_document"), str(folder)


def test_the_tokenizer_lies_with_the_sets(folder: Path) -> None:
    both = DataConfig(train=(f"{folder}/gpt@0.3", f"{folder}/more@2"))
    assert sources.tokenizer_of(both).json() == load_tokenizer("gpt2").json()
    named = both.model_copy(update={"tokenizer": "gpt2"})
    assert sources.tokenizer_of(named).json() == load_tokenizer("gpt2").json()


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_sets_of_different_tokenizers_do_not_mix(folder: Path, part: str) -> None:
    sets = {"train": (f"{folder}/gpt",), part: (f"{folder}/gpt", f"{folder}/bert@0.5")}
    with pytest.raises(InputError, match=r"bert was prepared with the tokenizer bert-uncased of 30522.*gpt of 50257"):
        sources.tokenizer_of(DataConfig(**sets))


def test_another_tokenizer_than_the_sets_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"gpt was prepared with the tokenizer gpt2.*not with bert-cased of 28996"):
        sources.tokenizer_of(DataConfig(train=(f"{folder}/gpt",), tokenizer="bert-cased"))


def test_no_set_and_no_such_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.train is empty"):
        sources.tokenizer_of(DataConfig())
    with pytest.raises(InputError, match=r"nothing.bin is missing"):
        sources.tokenizer_of(DataConfig(train=(str(tmp_path / "nothing"),)))


def test_a_set_of_megatrons_works_with_its_tokenizer(megatron: tuple[str, str]) -> None:
    prefix, tiny = megatron
    data = DataConfig(train=(prefix,), tokenizer=tiny, sequence=64)
    tokenizer = sources.tokenizer_of(data)
    assert tokenizer.vocab == 5000
    task = CausalLM(Config(data=data), tokenizer)
    assert task.train is not None and task.valid is not None
    assert len(task.valid) > 100
    for sample in (task.train[0], task.train[10**9], task.valid.sample(0, 0)):
        assert sample.tokens.shape == (64,) and np.array_equal(sample.tokens[1:], sample.labels[:-1])
    whole = CausalLM(Config(data=data.model_copy(update={"valid": (prefix,)})), tokenizer)
    assert whole.valid is not None
    assert tokenizer.decode(whole.valid.sample(0, 0).tokens).startswith("A magazine supplement with an image of")


def test_a_set_of_megatrons_needs_a_tokenizer(megatron: tuple[str, str]) -> None:
    with pytest.raises(InputError, match=r"has no .*tokenizer.json beside it; say with data.tokenizer"):
        sources.tokenizer_of(DataConfig(train=(megatron[0],)))


@pytest.mark.parametrize("odd", [28_996, -1])
def test_tokens_that_the_tokenizer_does_not_have(tmp_path: Path, odd: int) -> None:
    """A set without a manifest is judged by its tokens."""
    write_set(tmp_path / "set", [[range(100)]], vocab=70_000)
    data = DataConfig(train=(str(tmp_path / "set"),), tokenizer="bert-cased")
    assert isinstance(sources.tokenizer_of(data), Tokenizer)
    np.memmap(tmp_path / "set.bin", "<i4", "r+")[50] = odd
    with pytest.raises(
        InputError, match=rf"set\.bin: document 0 holds the token {odd} \(byte 200\).* has 0 to 28995; name"
    ):
        sources.tokenizer_of(data)


def test_several_sets_are_blended_by_weight(tmp_path: Path) -> None:
    names = [str(numbered(tmp_path / name, [[400]]).name) for name in "ab"]
    shifted = np.memmap(tmp_path / "b.bin", "<u2", "r+")
    shifted += 1000
    stream = OfFive(DataConfig(train=(f"{names[0]}@3", names[1]), valid=("x",))).train
    assert isinstance(stream, Blend)
    taken = [int(stream[n].tokens[0]) // (FIRST + 1000) for n in range(4096)]
    assert (taken.count(0), taken.count(1)) == (3072, 1024)
    orders = [[int(part[n].tokens[0]) % 1000 for n in range(79)] for part in stream.parts]
    assert orders[0] != orders[1]  # equal sets, each in an order of its own


def test_held_out_samples_lie_in_order_in_documents_not_trained_on(tmp_path: Path) -> None:
    name = numbered(tmp_path / "set", [[26]] * 10).name
    data = DataConfig(train=(name,), split=(0.7, 0.2, 0.1), sequence=5)
    stream = OfFive(data).train
    trained = {int(token) - FIRST for n in range(200) for token in stream[n].tokens}
    assert trained == set(range(7 * 26))
    for part, first, last in ((sources.VALID, 7, 9), (sources.TEST, 9, 10)):
        source = OfFive(data).held_out(part)
        assert source is not None
        samples = [source.sample(i, i).tokens - FIRST for i in range(len(source))]
        whole = ((last - first) * 26 - 1) // 5 * 5
        assert np.concatenate(samples).tolist() == list(range(first * 26, first * 26 + whole))


def test_explicit_sets_leave_the_training_sets_whole(tmp_path: Path) -> None:
    train, valid = (numbered(tmp_path / name, [[26]] * 4).name for name in ("train", "valid"))
    data = DataConfig(train=(train,), valid=(valid, f"{valid}@9"), sequence=5)
    stream = OfFive(data).train
    assert {int(token) for n in range(400) for token in stream[n].tokens} >= set(range(FIRST, FIRST + 100))
    source = OfFive(data).valid
    assert source is not None and len(source) == 2 * (103 // 5)
    assert OfFive(data).held_out(sources.TEST) is None
    assert OfFive(data.model_copy(update={"valid": (), "split": (1, 0, 0)})).valid is None
