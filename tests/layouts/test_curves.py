"""The promise: one curve, whatever the layout, dropout on."""

import pytest

from tests.layouts.conftest import Alone
from tests.layouts.curves import curve, farthest, weights
from tests.layouts.pool import Pool
from tests.train.runs import Corpus

TOLERANCE = 1e-4  # of 12 steps in fp32

MICRO = "layout.micro_batch=2"
LAYOUTS = {
    "tp2 whole stream": (2, ["layout.tp=2", "layout.sequence_parallel=false"]),
    "tp2": (2, ["layout.tp=2"]),
    "cp2": (2, ["layout.cp=2"]),
    "dp2": (2, ["layout.dp=2"]),
    "zero2": (2, ["layout.shard=zero2"]),
    "hybrid": (4, ["layout.shard=zero3", "layout.shard_ways=2"]),
    "interleaved": (2, ["layout.pp=2", "layout.schedule=interleaved", "layout.chunks=2", MICRO]),
    "zbv": (2, ["layout.pp=2", "layout.schedule=zbv", MICRO]),
    "dp2 tp2": (4, ["layout.tp=2"]),
    "zero3 tp2": (4, ["layout.tp=2", "layout.shard=zero3"]),
    "dp2 cp2 tp2": (8, ["layout.cp=2", "layout.tp=2"]),
    "pp2 dp2 tp2": (8, ["layout.pp=2", "layout.tp=2", "layout.micro_batch=1"]),
}
GPT = ("tp2", "cp2", "zero3 tp2", "interleaved", "pp2 dp2 tp2")
BERT = ("tp2 whole stream", "hybrid", "zbv", "dp2 cp2 tp2")


@pytest.mark.parametrize(("family", "name"), [*(("gpt", name) for name in GPT), *(("bert", name) for name in BERT)])
def test_one_curve(pool: Pool, alone: Alone, corpus: Corpus, family: str, name: str) -> None:
    processes, words = LAYOUTS[name]
    curves = pool.run(processes, curve, corpus.folder, family, *words)
    assert farthest(curves[0], alone(family)) < TOLERANCE
    assert all(farthest(other, curves[0]) == 0 for other in curves[1:]), "every rank tells the same"


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("zero3 tp2", ["optim.name=lamb", "optim.weight_decay=0.1"]),
        ("zero2", ["optim.name=muon"]),
        ("tp2", ["layout.recompute=block"]),
        ("cp2", ["model.attention_dropout=0.1"]),
        ("dp2 tp2", ["data.stop_at_documents=true"]),
        ("dp2", ["train.rampup=4,4,16"]),
    ],
)
def test_one_curve_with(pool: Pool, alone: Alone, corpus: Corpus, name: str, setting: list[str]) -> None:
    processes, words = LAYOUTS[name]
    family = "gpt" if "data.stop_at_documents=true" in setting else "bert"
    common = [word for word in setting if not word.startswith("layout.")]
    got = pool.run(processes, curve, corpus.folder, family, *words, *setting)[0]
    assert farthest(got, alone(family, *common)) < TOLERANCE


@pytest.mark.parametrize("name", ["zero3 tp2", "zbv"])
def test_first_weights_are_bit_equal(pool: Pool, corpus: Corpus, name: str) -> None:
    processes, words = LAYOUTS[name]
    (expected,) = pool.run(1, weights, corpus.folder, "bert")
    found = {}
    for part in pool.run(processes, weights, corpus.folder, "bert", *words):
        found |= part
    assert found.keys() == expected.keys()
    assert all(found[key].equal(expected[key]) for key in expected)
