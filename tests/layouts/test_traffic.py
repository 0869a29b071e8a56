"""Not one collective more than the method needs: a step's messages, their sizes too, against the closed form."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

from phalanx.parallel import data_parallel
from phalanx.plan.comm_counter import CommCounter
from phalanx.plan.communication import ExpectedMessages, Messages
from phalanx.train.trainer import Trainer
from tests.layouts.curves import made
from tests.layouts.pool import Pool
from tests.train.runs import Corpus

T = TypeVar("T")

ACCUMULATE = "layout.micro_batch=2"
CASES = {
    "tp2 whole stream": (2, ["layout.tp=2", "layout.sequence_parallel=false"]),
    "tp2": (2, ["layout.tp=2"]),
    "tp4": (4, ["layout.tp=4"]),
    "tp2 accumulated": (2, ["layout.tp=2", ACCUMULATE]),
    "tp2 blocks again": (2, ["layout.tp=2", "layout.recompute=block"]),
    "tp2 attention again": (2, ["layout.tp=2", "layout.recompute=attention"]),
    "tp2 muon": (2, ["layout.tp=2", "optim.name=muon"]),
    "cp2": (2, ["layout.cp=2"]),
    "cp2 ring": (2, ["layout.cp=2", "layout.context=ring"]),
    "cp4 ring": (4, ["layout.cp=4", "layout.context=ring"]),
    "dp2": (2, ["layout.dp=2"]),
    "dp2 accumulated": (2, ["layout.dp=2", ACCUMULATE]),
    "zero2": (2, ["layout.shard=zero2"]),
    "zero2 accumulated": (2, ["layout.shard=zero2", ACCUMULATE]),
    "zero3": (2, ["layout.shard=zero3"]),
    "zero3 accumulated": (2, ["layout.shard=zero3", ACCUMULATE]),
    "hybrid": (4, ["layout.shard=zero3", "layout.shard_ways=2"]),
    "pp2": (2, ["layout.pp=2", ACCUMULATE]),
    "interleaved": (2, ["model.layers=4", "layout.pp=2", "layout.schedule=interleaved", "layout.chunks=2", ACCUMULATE]),
    "zbv": (2, ["model.layers=4", "layout.pp=2", "layout.schedule=zbv", ACCUMULATE]),
    "dp2 tp2": (4, ["layout.tp=2"]),
    "zero3 tp2 lamb": (4, ["layout.tp=2", "layout.shard=zero3", "optim.name=lamb", "optim.weight_decay=0.1"]),
    "pp2 zero2": (4, ["layout.pp=2", "layout.shard=zero2", ACCUMULATE]),
    "dp2 cp2 tp2": (8, ["layout.cp=2", "layout.tp=2"]),
    "pp2 dp2 tp2": (8, ["layout.pp=2", "layout.tp=2", "layout.micro_batch=1"]),
}
# Where a Llama says other things than a GPT, or might: beyond its two key heads, and what passes its weights on.
LLAMA = {"tp2", "tp4", "tp2 blocks again", "tp2 muon", "cp2 ring", "zero3", "zbv", "dp2 cp2 tp2", "pp2 dp2 tp2"}
OLMO = {"tp2 whole stream", "tp4", "tp2 blocks again", "tp2 attention again"}  # which norms all heads together


def listen(trainer: Trainer) -> CommCounter:
    """Counts what this rank takes part in."""
    return CommCounter(trainer.config.layout)


def expected(trainer: Trainer, step: int) -> ExpectedMessages:
    """The closed form for this rank and the batch of a step."""
    batches = trainer.layout.micro_batches(trainer.layout.local_batch(trainer.loader.make(step)))
    bert = trainer.config.task == "mlm"
    labels = [batch.labels for batch in batches if batch.labels is not None]
    labelled = [int((each >= 0).sum()) if bert else each.numel() for each in labels]
    return ExpectedMessages(trainer.config, trainer.mesh, labelled, "cpu")


def one_step(folder: Path, family: str, *words: str) -> tuple[Messages, Messages]:
    """What was said in a step, and what had to be. Before it goes one in which pipelines open their connections."""
    trainer, _ = made(folder, family, "layout.micro_batch=0", *words)
    trainer.step(0)
    with listen(trainer) as traffic:
        trainer.step(1)
    trainer.loader.close()
    return traffic.messages, expected(trainer, 1).step()


def one_forward(folder: Path, family: str, *words: str) -> tuple[Messages, Messages]:
    """The same of a forward pass."""
    trainer, _ = made(folder, family, "layout.micro_batch=0", *words)
    batch = trainer.layout.local_batch(trainer.loader.make(0))
    with listen(trainer) as traffic:
        trainer.layout.module(batch)
    closed = expected(trainer, 0)
    trainer.loader.close()
    return traffic.messages, closed.forward(closed.labelled[0])


def of_each(families: Sequence[str], what: Callable[..., T], folder: Path, *words: str) -> dict[str, T]:
    """`what` of several families, one after the other in the same processes."""
    return {family: what(folder, family, *words) for family in families}


def families_of(name: str) -> list[str]:
    """The families whose messages are looked at on a layout."""
    return ["gpt", "bert", *["llama"] * (name in LLAMA), *["olmo"] * (name in OLMO)]


def buckets(folder: Path, elements: int) -> tuple[Messages, int]:
    """What two replicas say with small buckets, and how many gradients they have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_parallel, "BUCKET", elements)
        trainer, _ = made(folder, "gpt", "model.layers=4", ACCUMULATE)
        with listen(trainer) as traffic:
            trainer.step(0)
        trainer.loader.close()
    return traffic.messages, sum(p.numel() for p in trainer.parameters.values())


@pytest.mark.parametrize("name", CASES)
def test_a_step(pool: Pool, corpus: Corpus, name: str) -> None:
    processes, words = CASES[name]
    for rank, told in enumerate(pool.run(processes, of_each, families_of(name), one_step, corpus.folder, *words)):
        for family, (said, needed) in told.items():
            assert needed and dict(said) == dict(needed), f"{family}, rank {rank}"


@pytest.mark.parametrize("name", ["tp2 whole stream", "tp2", "cp2", "cp2 ring", "dp2"])
def test_a_forward_pass(pool: Pool, corpus: Corpus, name: str) -> None:
    processes, words = CASES[name]
    for rank, told in enumerate(pool.run(processes, of_each, families_of(name), one_forward, corpus.folder, *words)):
        for family, (said, needed) in told.items():
            assert dict(said) == dict(needed), f"{family}, rank {rank}"


def test_buckets(pool: Pool, corpus: Corpus) -> None:
    """Each is full but the last, and together they are the gradients, once for two micro-batches."""
    one, other = pool.run(2, buckets, corpus.folder, 8192)
    said, gradients = one
    assert one == other
    sizes = [message.bytes // 4 for message in said.elements() if message.axes == "dp" and message.bytes > 16]
    assert len(sizes) > 4 and sum(sizes) == gradients
    assert sum(size < 8192 for size in sizes) <= 1
    assert {kind for kind, *_ in said} == {"all-reduce"}


def test_a_process_alone_says_nothing(pool: Pool, corpus: Corpus) -> None:
    (said,) = pool.run(1, alone, corpus.folder)
    assert said == Counter()


def alone(folder: Path) -> Messages:
    """What is said where nobody listens."""
    return one_step(folder, "gpt")[0]
