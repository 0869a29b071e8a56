"""Runs leave padding out where they can, and learn the same."""

from typing import Any

import pytest
import torch

from phalanx.nn.batch import Batch
from phalanx.nn.packed import enable_packing
from phalanx.train import prepare, trainer
from phalanx.train.prepare import packing_pays
from tests.batches import batch_of
from tests.layouts.labelled import tuned
from tests.train.runs import Corpus


class Loads:
    """Stands where the loader stands: rows of 20 with so much padding, and where the second document begins."""

    def __init__(self, padding: int, second: int = 20) -> None:
        document = (torch.arange(20) >= second).int().expand(3, 20).clone()
        document[:, 20 - padding :] = -1
        self.batch: Batch = batch_of(torch.zeros(3, 20, dtype=torch.int64), 20, document=document)

    def make(self, _: int, most: int) -> Batch:
        return self.batch


def decided(corpus: Corpus, loads: Any, *words: str) -> bool:
    config = corpus.config("bert", "train.compile=off", *words, processes=2 if words else 1)
    return packing_pays(config, loads)


def test_where_there_is_some(corpus: Corpus) -> None:
    assert decided(corpus, Loads(3)) and not decided(corpus, Loads(1)) and decided(corpus, Loads(0, second=9))
    assert not decided(corpus, Loads(9), "layout.tp=2") and not decided(corpus, Loads(9), "layout.cp=2")
    assert not decided(corpus, Loads(9), "model.attention_dropout=0.1") and decided(corpus, Loads(9), "layout.dp=2")


@pytest.mark.parametrize("kind", ["tokens", "classes"])
def test_the_same_curve(corpus: Corpus, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a BERT that is fine-tuned, dropout on."""
    kernels: list[bool] = []

    def watched(model: Any, kernel: bool) -> None:
        kernels.append(kernel)
        enable_packing(model, kernel)

    monkeypatch.setattr(prepare, "enable_packing", watched)
    packed = tuned(corpus.folder, kind)
    monkeypatch.setattr(trainer, "packing_pays", lambda *_: False)
    rows = tuned(corpus.folder, kind)
    assert kernels == [False]
    assert packed.losses == pytest.approx(rows.losses, abs=1e-5) and packed.norms == pytest.approx(rows.norms, rel=1e-4)
    assert packed.valids[-1]["loss"] == pytest.approx(rows.valids[-1]["loss"], abs=1e-5)
