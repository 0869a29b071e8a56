"""The loop: it learns, and what must not change a loss does not."""

import math
from pathlib import Path
from typing import Any

import pytest

from tests.train.runs import QUIETLY, Corpus, fit, trainer

DROPOUT = ["model.dropout=0.2", "model.attention_dropout=0.1"]


@pytest.mark.parametrize("family", ["gpt", "bert"])
def test_accumulation_equals_the_whole_batch(corpus: Corpus, run: Path, family: str) -> None:
    """With dropout, and with micro-batches that do not divide the batch."""
    losses = [
        fit(run / size, corpus.config(family, *DROPOUT, *QUIETLY, f"layout.micro_batch={size}")).losses
        for size in ("8", "3", "1")
    ]
    assert losses[1] == pytest.approx(losses[0], abs=2e-6)
    assert losses[2] == pytest.approx(losses[0], abs=2e-6)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_recompute_is_bit_equal(corpus: Corpus, run: Path, dtype: str) -> None:
    words = [*DROPOUT, *QUIETLY, f"precision.dtype={dtype}", "train.steps=4"]
    records = {
        kind: fit(run / kind, corpus.config("bert", *words, f"layout.recompute={kind}"))
        for kind in ("none", "block", "attention")
    }
    assert records["none"].steps == records["block"].steps == records["attention"].steps


@pytest.mark.parametrize("family", ["gpt", "bert"])
@pytest.mark.parametrize("optimizer", ["adamw", "lamb", "muon"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_it_learns(corpus: Corpus, run: Path, family: str, optimizer: str, dtype: str) -> None:
    rate = 0.2 if optimizer == "lamb" else 0.01
    words = [f"optim.name={optimizer}", f"precision.dtype={dtype}", f"optim.lr={rate}", "train.steps=15"]
    record = fit(run, corpus.config(family, *words, "train.eval_every=15", "layout.micro_batch=0"))
    assert record.losses[-1] < record.losses[0] - 0.4
    assert record.valids[15]["loss"] < record.losses[0] - 0.4
    assert record.steps[15]["skipped"] == 0


def test_the_z_loss_is_told_apart(corpus: Corpus, run: Path) -> None:
    """In the records, and not in the losses that text is judged by; the weights feel it."""
    words = [*QUIETLY, "train.steps=2", "optim.warmup=0", "train.eval_every=2"]
    without = fit(run / "without", corpus.config("gpt", *words))
    record = fit(run / "with", corpus.config("gpt", *words, "train.z_loss=0.01"))
    first, second = record.steps.values()
    assert first["loss"] == without.steps[1]["loss"] and "z" not in without.steps[1]
    assert first["z"] == pytest.approx(0.01 * math.log(320) ** 2, rel=0.02), "of logits that are still near zero"
    assert second["z"] < first["z"] and first["grad_norm"] != without.steps[1]["grad_norm"]
    assert record.valids[2].keys() == without.valids[2].keys()


def test_the_position_in_the_data_follows_the_ramp(corpus: Corpus, run: Path) -> None:
    """Sample after sample, none twice, and tokens are counted as they were seen."""
    made, record = trainer(run, corpus.config("gpt", *QUIETLY, "train.rampup=2,3,12"))
    stream, asked = made.task.train, []

    class Counting:
        def __getitem__(self, n: int) -> Any:
            asked.append(n)
            return stream[n]

    made.task.train = Counting()
    made.fit()
    sizes = [2, 2, 2, 5, 5, 8]
    assert asked[: sum(sizes)] == list(range(sum(sizes)))
    tokens = [values["tokens"] for values in record.steps.values()]
    assert tokens == [32 * sum(sizes[: step + 1]) for step in range(6)]
