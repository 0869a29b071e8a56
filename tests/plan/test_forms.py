"""What a rank holds, multiplies and keeps by the closed forms: exact figures, from before the forms read a model's
description. `test_trace.py` holds the same forms against the real step, within a tolerance.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from phalanx.plan.flops import flops
from phalanx.plan.memory import memory
from phalanx.plan.rank import RankShard
from tests.plan.test_trace import CASES, FOUR, laid_out

FIGURES = json.loads(Path(__file__).with_name("forms.json").read_text())
MORE = """
1 gpt train.batch=8 layout.micro_batch=4 model.attention_dropout=0.1 model.ffn=1536
2 gpt train.batch=8 layout.tp=2 layout.micro_batch=2 optim.name=muon model.ffn=1536 layout.recompute=attention
4 bert train.batch=32 layout.micro_batch=4 layout.pp=2 layout.schedule=zbv layout.tp=2 model.norm_first=false
8 bert train.batch=32 layout.micro_batch=4 layout.tp=2 layout.shard=zero3 layout.shard_ways=2 layout.pp=2
""".strip().splitlines()


def figures(words: str) -> list[Any]:
    """Of the first rank and the last of the pipeline: parameters, FLOPs of a step, bytes by kind."""
    config, _ = laid_out(f"{words} {FOUR}")
    ranks = sorted({0, config.layout.pp - 1})
    return [[RankShard(config, pp).parameters, flops(config, pp), [*memory(config, pp)]] for pp in ranks]


@pytest.mark.parametrize("words", [*CASES, *MORE])
def test_as_they_were(words: str) -> None:
    assert figures(words) == FIGURES[words.removesuffix(f" {FOUR}")]
