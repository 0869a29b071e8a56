"""Which blocks go to which stage."""

from collections.abc import Sequence
from itertools import combinations

import pytest

from phalanx.config import ModelConfig
from phalanx.models.family import configured, spec_of
from phalanx.parallel.placement import assign_layers, tensor_misfit


def slowest(config: ModelConfig, blocks: Sequence[int]) -> float:
    """The cost of the slowest stage, in blocks: the head multiplies vocab × hidden, a block 12 hidden²."""
    return max([*blocks[:-1], blocks[-1] + config.vocab / (12 * config.hidden)])


@pytest.mark.parametrize(("layers", "stages", "vocab"), [(12, 4, 50257), (24, 4, 30522), (8, 3, 1000), (6, 6, 50257)])
def test_the_slowest_stage_is_as_fast_as_can_be(layers: int, stages: int, vocab: int) -> None:
    config = configured(layers=layers, hidden=768, heads=12, vocab=vocab)
    blocks = assign_layers(spec_of(config), stages)
    assert sum(blocks) == layers
    assert min(blocks) >= 1
    every = ([b - a for a, b in zip((0, *cuts), (*cuts, layers), strict=True)]
             for cuts in combinations(range(1, layers), stages - 1))  # fmt: skip
    best = min(slowest(config, candidate) for candidate in every)
    assert slowest(config, blocks) < best + 0.1, "the embedding costs less than a tenth of a block"


def test_embedding_and_head_are_weighed() -> None:
    small = assign_layers(spec_of(configured(layers=8, hidden=768, heads=12, vocab=50257)), 2)
    assert small[0] > small[1], "the head of a small model costs five blocks"
    large = assign_layers(spec_of(configured(layers=9, hidden=4096, heads=32, vocab=128)), 2)
    assert large == (4, 5), "the embedding breaks a tie"


def test_a_narrower_block_makes_the_head_heavier() -> None:
    wide, narrow = (configured(layers=12, hidden=768, heads=12, vocab=50257, ffn=ffn) for ffn in (3072, 768))
    assert assign_layers(spec_of(narrow), 2)[1] < assign_layers(spec_of(wide), 2)[1]


def test_a_head_of_fine_tuning_weighs_nothing() -> None:
    model = {"family": "bert", "layers": 8, "hidden": 768, "heads": 12, "vocab": 50257, "head": "classes", "classes": 3}
    assert assign_layers(spec_of(configured(**model)), 2) == (4, 4)


def test_key_heads_take_divisors_and_multiples() -> None:
    spec = spec_of(configured(family="llama", hidden=48, heads=12, kv_heads=4, ffn=96, vocab=96, pad_vocab_to=96))
    keys = "the 4 key heads of transformer.blocks.0.attention.qkv.weight"
    said = f"layout.tp=3 neither divides {keys} nor is a multiple of them; use one of 1, 2, 4, 12"
    assert tensor_misfit(spec, 3, 96) == said
    assert tensor_misfit(spec, 8, 96) == "layout.tp=8 does not divide model.heads=12; use one of 1, 2, 4, 12"
