"""The promise: one curve, whatever the layout, dropout on."""

import numpy as np
import pytest

from tests.layouts.conftest import Alone
from tests.layouts.curves import curve, farthest, weights
from tests.layouts.pool import Pool
from tests.train.runs import Corpus

TOLERANCE = 1e-4  # of 12 steps in fp32

RING = "layout.context=ring"
DEEPER = "model.layers=4"
ACCUMULATE, TWICE = "layout.micro_batch=2", "layout.micro_batch=4"  # of eight sequences
LAYOUTS = {
    "tp2 whole stream": (2, ["layout.tp=2", "layout.sequence_parallel=false"]),
    "tp2": (2, ["layout.tp=2", TWICE]),
    "tp4": (4, ["layout.tp=4"]),
    "cp2": (2, ["layout.cp=2", TWICE]),
    "cp2 ring": (2, ["layout.cp=2", RING, "layout.recompute=attention"]),
    "cp4 ring": (4, ["layout.cp=4", RING]),
    "dp2": (2, ["layout.dp=2", ACCUMULATE]),
    "dp4": (4, ["layout.dp=4", ACCUMULATE]),
    "zero2": (2, ["layout.shard=zero2", ACCUMULATE]),
    "zero3": (4, ["layout.shard=zero3", "layout.recompute=block"]),
    "hybrid": (4, ["layout.shard=zero3", "layout.shard_ways=2", "layout.micro_batch=1"]),
    "pp2": (2, ["layout.pp=2", ACCUMULATE]),
    "pp4": (4, [DEEPER, "layout.pp=4", ACCUMULATE]),
    "interleaved": (2, [DEEPER, "layout.pp=2", "layout.schedule=interleaved", "layout.chunks=2", ACCUMULATE]),
    "zbv": (2, [DEEPER, "layout.pp=2", "layout.schedule=zbv", ACCUMULATE]),
    "dp2 tp2": (4, ["layout.tp=2", ACCUMULATE]),
    "pp2 dp2 zbv": (4, [DEEPER, "layout.pp=2", "layout.schedule=zbv", ACCUMULATE]),
    "zero3 tp2": (4, ["layout.tp=2", "layout.shard=zero3"]),
    "zero3 cp2 ring": (4, ["layout.cp=2", RING, "layout.shard=zero3", ACCUMULATE]),
    "cp2 tp2": (4, ["layout.cp=2", "layout.tp=2"]),
    "cp2 tp2 ring": (4, ["layout.cp=2", "layout.tp=2", RING, "layout.recompute=block"]),
    "pp2 tp2": (4, ["layout.pp=2", "layout.tp=2", TWICE]),
    "pp2 cp2": (4, ["layout.pp=2", "layout.cp=2", TWICE]),
    "pp2 zero3": (4, ["layout.pp=2", "layout.shard=zero3", ACCUMULATE]),
    "pp2 zero2 zbv": (4, [DEEPER, "layout.pp=2", "layout.shard=zero2", "layout.schedule=zbv", "layout.micro_batch=1"]),
    "dp2 cp2 tp2": (8, ["layout.cp=2", "layout.tp=2"]),
    "pp2 dp2 tp2": (8, ["layout.pp=2", "layout.tp=2", ACCUMULATE]),
    "pp2 cp2 tp2": (8, ["layout.pp=2", "layout.cp=2", "layout.tp=2", RING, TWICE]),
}
OPTIMIZERS = {"adamw": ["optim.name=adamw"], "lamb": ["optim.name=lamb", "optim.weight_decay=0.1"]}
CASES = [
    (family, name, list(OPTIMIZERS)[(row + column) % 2])
    for row, name in enumerate(LAYOUTS)
    for column, family in enumerate(("gpt", "bert"))
]


@pytest.mark.parametrize(("family", "name", "optimizer"), CASES)
def test_one_curve(pool: Pool, alone: Alone, corpus: Corpus, family: str, name: str, optimizer: str) -> None:
    processes, words = LAYOUTS[name]
    settings = OPTIMIZERS[optimizer]
    curves = pool.run(processes, curve, corpus.folder, family, *settings, *words)
    assert farthest(curves[0], alone(family, *settings, *_of_model(words))) < TOLERANCE
    assert all(farthest(other, curves[0]) == 0 for other in curves[1:]), "every rank tells the same"


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("zero2", ["optim.name=muon", "optim.lr=0.03"]),
        ("cp2", ["model.attention_dropout=0.1"]),
        ("tp2", ["model.attention_dropout=0.1"]),
        ("dp2 tp2", ["data.stop_at_documents=true"]),
        ("cp2 tp2 ring", ["data.stop_at_documents=true"]),
        ("dp2", ["train.rampup=4,4,16"]),
    ],
)
def test_one_curve_with(pool: Pool, alone: Alone, corpus: Corpus, name: str, setting: list[str]) -> None:
    processes, words = LAYOUTS[name]
    family = "gpt" if "data.stop_at_documents=true" in setting else "bert"
    got = pool.run(processes, curve, corpus.folder, family, *words, *setting)[0]
    assert farthest(got, alone(family, *setting)) < TOLERANCE


@pytest.mark.parametrize("family", ["gpt", "bert"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_first_weights_are_bit_equal(pool: Pool, corpus: Corpus, family: str, name: str) -> None:
    processes, words = LAYOUTS[name]
    (expected,) = pool.run(1, weights, corpus.folder, 0, family, *_of_model(words))
    seen = set()
    for found in pool.run(processes, weights, corpus.folder, 0, family, *words):
        assert all((found[name] == expected[name]).all() for name in found)
        seen |= found.keys()
    assert seen == expected.keys()


@pytest.mark.parametrize("name", ["dp2", "tp2", "pp2", "zero2", "cp2"])
def test_weights_move_alike(pool: Pool, corpus: Corpus, name: str) -> None:
    """Those too that no loss depends on: without pairs, BERT's pooler only decays."""
    processes, words = LAYOUTS[name]
    settings = ["data.pairs=none", "optim.weight_decay=0.1", "optim.lr=1e-2"]
    (expected,) = pool.run(1, weights, corpus.folder, 4, "bert", *settings)
    for found in pool.run(processes, weights, corpus.folder, 4, "bert", *settings, *words):
        assert all(np.abs(found[key] - expected[key]).max() < 2e-4 for key in found)


def _of_model(words: list[str]) -> list[str]:
    return [word for word in words if word.startswith("model.")]
