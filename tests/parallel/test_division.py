"""Which blocks go to which stage."""

from itertools import combinations

import pytest

from phalanx.config import ModelConfig
from phalanx.parallel.division import spread


def slowest(config: ModelConfig, blocks: list[int]) -> float:
    """The cost of the slowest stage, in blocks: the head multiplies vocab × hidden, a block 12 hidden²."""
    return max([*blocks[:-1], blocks[-1] + config.vocab / (12 * config.hidden)])


@pytest.mark.parametrize(("layers", "stages", "vocab"), [(12, 4, 50257), (24, 4, 30522), (8, 3, 1000), (6, 6, 50257)])
def test_the_slowest_stage_is_as_fast_as_can_be(layers: int, stages: int, vocab: int) -> None:
    config = ModelConfig(layers=layers, hidden=768, heads=12, vocab=vocab)
    blocks = spread(config, stages)
    assert sum(blocks) == layers
    assert min(blocks) >= 1
    every = ([b - a for a, b in zip((0, *cuts), (*cuts, layers), strict=True)]
             for cuts in combinations(range(1, layers), stages - 1))  # fmt: skip
    best = min(slowest(config, candidate) for candidate in every)
    assert slowest(config, blocks) < best + 0.1, "the embedding costs less than a tenth of a block"


def test_embedding_and_head_are_weighed() -> None:
    small = spread(ModelConfig(layers=8, hidden=768, heads=12, vocab=50257), 2)
    assert small[0] > small[1], "the head of a small model costs five blocks"
    assert spread(ModelConfig(layers=9, hidden=4096, heads=32, vocab=128), 2) == [4, 5], "the embedding breaks a tie"
