"""Filling masks: every mask's likeliest words, and what is wrong in one line."""

from pathlib import Path

import pytest
import torch

from phalanx.errors import InputError
from phalanx.infer.bundle import ModelBundle, load_bundle
from phalanx.infer.fill import fill
from tests.batches import batch_of
from tests.infer.runs import BERT, GPT, make_run

CLS, SEP, MASK = 101, 102, 103


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    path = tmp_path_factory.mktemp("bert") / "run"
    make_run(path, BERT, "bert-uncased")
    return load_bundle(path)


def test_likeliest_words_of_every_mask(loaded: ModelBundle) -> None:
    blanks = fill(loaded, "The [MASK] sat on the [MASK].", top=3)
    the, sat, on, dot = (loaded.tokenizer.encode(word)[0] for word in ("the", "sat", "on", "."))
    tokens = torch.tensor([[CLS, the, MASK, sat, on, the, MASK, dot, SEP]])
    with torch.no_grad():
        segment = torch.zeros_like(tokens)
        probabilities = loaded.model(batch_of(tokens, 16, segment=segment))[0].softmax(-1)
    assert [blank.position for blank in blanks] == [2, 6]
    for position, words in blanks:
        best = probabilities[position].topk(3)
        assert [word for word, _ in words] == [loaded.tokenizer.decode([i]) for i in best.indices.tolist()]
        assert [p for _, p in words] == pytest.approx(best.values.tolist(), rel=1e-4)


def test_as_many_words_as_asked(loaded: ModelBundle) -> None:
    ((_, words),) = fill(loaded, "[MASK]")
    assert len(words) == 5
    ((_, words),) = fill(loaded, "[MASK]", top=30522)
    assert sum(p for _, p in words) == pytest.approx(1, abs=1e-4)
    for top in (0, 30523):
        with pytest.raises(InputError, match=f"top={top} "):
            fill(loaded, "[MASK]", top=top)


def test_a_text_without_a_mask(loaded: ModelBundle) -> None:
    with pytest.raises(InputError, match=r"the text has no \[MASK\]; write \[MASK\]"):
        fill(loaded, "The cat sat.")


def test_a_text_longer_than_the_context(loaded: ModelBundle) -> None:
    assert len(fill(loaded, "[MASK]" + 13 * " a")) == 1
    with pytest.raises(InputError, match=r"the text has 17 tokens.*context 16"):
        fill(loaded, "[MASK]" + 14 * " a")


def test_a_gpt_run(tmp_path: Path) -> None:
    make_run(tmp_path / "run", GPT, "gpt2")
    with pytest.raises(InputError, match=r"run learned to continue a text.*phalanx generate"):
        fill(load_bundle(tmp_path / "run"), "the [MASK]")


def test_a_tokenizer_without_a_mask(tmp_path: Path) -> None:
    config = BERT.model_copy(update={"model": BERT.model.model_copy(update={"vocab": 50257})})
    make_run(tmp_path / "run", config, "gpt2")
    with pytest.raises(InputError, match="no mask, cls and sep"):
        fill(load_bundle(tmp_path / "run"), "the [MASK]")
