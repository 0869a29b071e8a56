"""The promise: one curve, whatever the layout, dropout on, from weights that are equal to the bit."""

from functools import cache
from typing import Protocol

import numpy as np
import pytest

from tests.layouts.conftest import Alone
from tests.layouts.curves import Curve, Weights, curve, farthest, from_the_first_weights, gradients, weights
from tests.layouts.pool import Pool
from tests.train.runs import Corpus

TOLERANCE = 1e-4  # of 6 steps in fp32

RING = "layout.context=ring"
DEEPER = "model.layers=4"
# Of eight sequences; where nothing is said, in three, three and two. Each message of a small model costs more than what
# is computed, so that layouts of many say them once a step where others of their kind accumulate.
ACCUMULATE, TWICE, ONCE = "layout.micro_batch=2", "layout.micro_batch=4", "layout.micro_batch=0"
STOP, RESTART = "data.stop_at_documents=true", "data.restart_positions=true"
PAPERS = ["model.init_cut=2", "model.init_residual=same", "model.init_head=width"]  # other first weights
LAYOUTS = {
    "tp2 whole stream": (2, ["layout.tp=2", "layout.sequence_parallel=false"]),
    "tp2": (2, ["layout.tp=2", TWICE]),
    "tp4": (4, ["layout.tp=4", ONCE]),
    "cp2": (2, ["layout.cp=2", TWICE]),
    "cp2 ring": (2, ["layout.cp=2", RING, "layout.recompute=attention"]),
    "cp4 ring": (4, ["layout.cp=4", RING, ONCE]),
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
    "zero3 tp2": (4, ["layout.tp=2", "layout.shard=zero3", ONCE]),
    "zero3 cp2 ring": (4, ["layout.cp=2", RING, "layout.shard=zero3", ACCUMULATE]),
    "cp2 tp2": (4, ["layout.cp=2", "layout.tp=2", TWICE]),
    "cp2 tp2 ring": (4, ["layout.cp=2", "layout.tp=2", RING, "layout.recompute=block", ONCE]),
    "pp2 tp2": (4, ["layout.pp=2", "layout.tp=2", TWICE]),
    "pp2 cp2": (4, ["layout.pp=2", "layout.cp=2", TWICE]),
    "pp2 zero3": (4, ["layout.pp=2", "layout.shard=zero3", ACCUMULATE]),
    "pp2 zero2 zbv": (4, [DEEPER, "layout.pp=2", "layout.shard=zero2", "layout.schedule=zbv", "layout.micro_batch=1"]),
    "dp2 cp2 tp2": (8, ["layout.cp=2", "layout.tp=2", ONCE]),
    "pp2 dp2 tp2": (8, ["layout.pp=2", "layout.tp=2", ACCUMULATE]),
    "pp2 cp2 tp2": (8, ["layout.pp=2", "layout.cp=2", "layout.tp=2", RING, TWICE]),
}
OPTIMIZERS = [["optim.name=adamw"], ["optim.name=lamb", "optim.weight_decay=0.1"]]
FAMILIES = ["gpt", "bert", "llama", "modernbert", "qwen3", "gemma3"]
FEWER = ["train.steps=4"]  # of families that have most with another in common
AGAIN = ["tp2", "pp2"]  # with fewer instructions


class Trained(Protocol):
    """What every rank of a layout tells of its run: first weights, curve."""

    def __call__(self, family: str, name: str) -> list[tuple[Weights, Curve]]: ...


@pytest.fixture(scope="session")
def trained(pool: Pool, corpus: Corpus) -> Trained:
    """Each layout trains once; several tests look at it."""

    @cache
    def train(family: str, name: str) -> list[tuple[Weights, Curve]]:
        processes, words = LAYOUTS[name]
        return pool.run(processes, from_the_first_weights, corpus.folder, family, *_settings(family, name), *words)

    return train


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.numerics] * (name in AGAIN)) for name in LAYOUTS]
)
def test_one_curve(trained: Trained, alone: Alone, family: str, name: str) -> None:
    curves = [curve for _, curve in trained(family, name)]
    assert farthest(curves[0], alone(family, *_settings(family, name), *_of_model(LAYOUTS[name][1]))) < TOLERANCE
    assert all(farthest(other, curves[0]) == 0 for other in curves[1:]), "every rank tells the same"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", LAYOUTS)
def test_first_weights_are_bit_equal(
    pool: Pool, trained: Trained, corpus: Corpus, first: dict[tuple[str, ...], Weights], family: str, name: str
) -> None:
    shape = (family, *_of_model(LAYOUTS[name][1]))
    if shape not in first:
        (first[shape],) = pool.run(1, weights, corpus.folder, 0, *shape)
    seen = set()
    for found, _ in trained(family, name):
        assert all((found[key] == first[shape][key]).all() for key in found)
        seen |= found.keys()
    assert seen == first[shape].keys()


@pytest.fixture(scope="session")
def first() -> dict[tuple[str, ...], Weights]:
    """First weights of one process, by family and shape."""
    return {}


@pytest.mark.parametrize(
    ("family", "name", "setting"),
    [
        ("bert", "zero2", ["optim.name=muon", "optim.lr=0.03"]),
        ("bert", "cp2", ["model.attention_dropout=0.1"]),
        ("bert", "tp2", ["model.attention_dropout=0.1"]),
        ("gpt", "dp2 tp2", [STOP]),
        ("gpt", "cp2 tp2 ring", [STOP]),
        ("gpt", "pp2 tp2", [STOP, RESTART]),
        ("gpt", "cp2 tp2", [STOP, RESTART]),
        ("llama", "pp2 cp2", [STOP, RESTART]),
        ("llama", "cp4 ring", [STOP, RESTART]),
        ("bert", "dp2", ["train.rampup=4,4,16"]),
        ("bert", "cp2 tp2", ["train.z_loss=0.1"]),
        ("llama", "pp2 tp2", ["train.z_loss=0.1"]),
        ("gpt", "dp2 tp2", ["train.z_loss=0.1"]),
        ("roberta", "tp2", []),
        ("roberta", "pp2", ["model.attention_dropout=0.1"]),
        ("roberta", "cp2 ring", []),
        ("roberta", "zero2", []),
        ("roberta", "tp2 whole stream", []),
        ("distilbert", "pp2 tp2", []),
        ("olmo", "tp2 whole stream", []),
        ("olmo", "tp4", []),
        ("olmo", "cp2 tp2 ring", ["model.kv_heads=1"]),
        ("olmo", "zero3 tp2", ["optim.name=muon", "optim.lr=0.03", "optim.split_fused=true"]),
        ("llama", "cp2 tp2", ["model.rope_layers=10", "model.window=8"]),
        ("llama", "zero3 tp2", ["model.kv_heads=1", "model.tied=true"]),
        ("llama", "pp2 tp2", [*PAPERS, "model.kv_heads=1", "model.qkv_bias=true", "model.attention_dropout=0.1"]),
        ("llama", "cp2 tp2 ring", ["model.kv_heads=1", STOP]),
        ("llama", "tp4", ["optim.name=muon", "optim.lr=0.03", "optim.split_fused=true"]),
    ],
)
def test_one_curve_with(pool: Pool, alone: Alone, corpus: Corpus, family: str, name: str, setting: list[str]) -> None:
    processes, words = LAYOUTS[name]
    got = pool.run(processes, curve, corpus.folder, family, *words, *setting)[0]
    assert farthest(got, alone(family, *setting)) < TOLERANCE


@pytest.mark.parametrize("name", ["tp2 whole stream", "tp2", "tp4", "cp2 tp2 ring"])
def test_gradients_of_norms_of_queries_and_keys(pool: Pool, corpus: Corpus, name: str) -> None:
    """Each parameter's by itself: what a norm of few numbers lacks is lost in a curve. Key heads are copied in tp4."""
    families = ["qwen3", "olmo", "gemma3"]
    processes, words = LAYOUTS[name]
    (expected,) = pool.run(1, gradients, corpus.folder, families)
    for told in pool.run(processes, gradients, corpus.folder, families, *words):
        for family, found in told.items():
            assert sum("_norm." in parameter for parameter in found) == 4
            for parameter, grad in found.items():
                right = expected[family][parameter]
                assert np.abs(grad - right).max() < TOLERANCE * np.abs(right).max(), f"{family} {parameter}"


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


def _settings(family: str, name: str) -> list[str]:
    """AdamW and LAMB by turns, the other one for the other family; and how many steps."""
    optimizer = OPTIMIZERS[(list(LAYOUTS).index(name) + FAMILIES.index(family)) % 2]
    return [*optimizer, *(FEWER if family in ("qwen3", "gemma3") else [])]
