"""A long context is trained on several processes as on one: 16,384 positions around a ring, blocks computed again."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.sets import write_set
from tests.layouts.curves import made
from tests.layouts.pool import Pool
from tests.train.runs import Corpus

LENGTH = 16_384
LONG = [
    "model.layers=1", "model.hidden=16", "model.heads=1", "model.kv_heads=1", "model.width=16", "model.theta=5e5",
    f"model.positions={LENGTH}", f"data.sequence={LENGTH}", "data.split=1,0,0", "train.batch=1", "train.steps=2",
    "optim.warmup=0", "train.eval_every=0", "layout.recompute=block", "layout.micro_batch=1",
]  # fmt: skip


def steps(folder: Path, *words: str) -> list[tuple[float, float]]:
    """The loss and the gradient's norm of each step."""
    trainer, record = made(folder, "llama", *LONG, f"data.train={folder / 'long'}", *words)
    trainer.fit()
    return [(values["loss"], values["grad_norm"]) for values in record.steps.values()]


def test_around_a_ring(pool: Pool, corpus: Corpus) -> None:
    """Each token is likely the one of 8,000 places before, so that far keys matter."""
    dice = np.random.default_rng(3)
    tokens = dice.integers(0, 300, 8000)
    write_set(corpus.folder / "long", [[[*tokens, *tokens, *tokens[:500]]] * 2], 320)
    (alone,) = pool.run(1, steps, corpus.folder)
    around = pool.run(4, steps, corpus.folder, "layout.cp=4", "layout.context=ring")
    assert len(alone) == 2 and all(each == around[0] for each in around)
    for one, other in zip(alone, around[0], strict=True):
        assert other == pytest.approx(one, abs=1e-4)
