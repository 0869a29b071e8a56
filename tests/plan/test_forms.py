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
from tests.plan.test_trace import FOUR, laid_out

FIGURES: dict[str, Any] = json.loads(Path(__file__).with_name("forms.json").read_text())


def figures(words: str) -> list[Any]:
    """Of the first rank and the last of the pipeline: parameters, FLOPs of a step, bytes by kind."""
    config, _ = laid_out(f"{words} {FOUR}")
    ranks = sorted({0, config.layout.pp - 1})
    return [[RankShard(config, pp).parameters, flops(config, pp), [*memory(config, pp)]] for pp in ranks]


@pytest.mark.parametrize("words", FIGURES)
def test_as_they_were(words: str) -> None:
    assert figures(words) == FIGURES[words]
