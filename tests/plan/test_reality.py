"""What the trace says of ranks that are not there, real processes do."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from phalanx.config import Config
from phalanx.plan.comm_counter import CommCounter
from phalanx.plan.communication import Messages
from phalanx.plan.memory_profiler import MemoryProfiler
from phalanx.plan.trace import take_stock, trace
from phalanx.train.trainer import Trainer
from tests.layouts.curves import made
from tests.layouts.pool import Pool
from tests.train.runs import Corpus

WIDER = ["model.hidden=128", "model.layers=3", "model.attention_dropout=0", "train.batch=4", "layout.micro_batch=2",
         "train.compile=off"]  # fmt: skip
CASES = {
    "one": (1, []),
    "tp2": (2, ["layout.tp=2"]),
    "dp2": (2, []),
    "zero3": (2, ["layout.shard=zero3"]),
    "pp2": (2, ["layout.pp=2"]),
    "dp2 tp2": (4, ["layout.tp=2"]),
}


class Step(NamedTuple):
    """What a process did in a step."""

    config: Config
    messages: Messages
    peak: int  # bytes
    flops: int


def real(folder: Path, family: str, *words: str) -> Step:
    """Of this rank, in its second step; the memory is the least of two: buffers on their way may be freed late."""
    trainer, _ = made(folder, family, *WIDER, *words)
    trainer.step(0)
    steps = [_measured(trainer, i) for i in (1, 2)]
    trainer.loader.close()
    return steps[0]._replace(peak=min(step.peak for step in steps))


def _measured(trainer: Trainer, i: int) -> Step:
    ledger, traffic = MemoryProfiler(), CommCounter(trainer.config.layout)
    with ledger, ledger.resizing(), traffic:
        take_stock(ledger, trainer.layout, trainer.optimizers)
        trainer.step(i)
    return Step(trainer.config, traffic.messages, int(ledger.timeline().sum(1).max()), ledger.flops)


def kinds(messages: Messages) -> Counter[tuple[str, str]]:
    """How many of each kind along which axes."""
    return sum((Counter({message[:2]: times}) for message, times in messages.items()), start=Counter())


@pytest.mark.parametrize("name", CASES)
def test_gpt(pool: Pool, corpus: Corpus, name: str) -> None:
    processes, words = CASES[name]
    pool.end()  # in ranks that have trained before, some memory is let go later
    for rank, step in enumerate(pool.run(processes, real, corpus.folder, "gpt", *words)):
        traced = trace(step.config, processes, rank, device="cpu")
        assert dict(traced.messages) == dict(step.messages)
        assert traced.flops == step.flops
        assert sum(traced.peak.values()) == pytest.approx(step.peak, rel=0.02)


@pytest.mark.parametrize("name", ["tp2", "zero3", "pp2"])
def test_bert(pool: Pool, corpus: Corpus, name: str) -> None:
    """How many words a micro-batch hides is known on average only."""
    processes, words = CASES[name]
    pool.end()  # as above
    for rank, step in enumerate(pool.run(processes, real, corpus.folder, "bert", *words)):
        traced = trace(step.config, processes, rank, device="cpu")
        assert kinds(traced.messages) == kinds(step.messages)
        assert traced.flops == pytest.approx(step.flops, rel=0.02)
        assert sum(traced.peak.values()) == pytest.approx(step.peak, rel=0.02)
