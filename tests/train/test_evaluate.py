"""The held-out loss: by hand, and at any micro-batch."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from phalanx.nn.batch import Batch
from phalanx.train.evaluate import answered, evaluate
from tests.train.runs import Corpus, trainer

DROPOUT = ["model.dropout=0.2", "model.attention_dropout=0.1"]


@pytest.mark.parametrize("family", ["gpt", "bert"])
def test_evaluation_is_the_same_at_any_micro_batch(corpus: Corpus, run: Path, family: str) -> None:
    made, _ = trainer(run, corpus.config(family, *DROPOUT))
    assert made.task.valid is not None
    seen: list[tuple[int, int]] = []
    configs = [corpus.config(family, *DROPOUT, f"layout.micro_batch={size}") for size in (7, 3, 1)]
    results = [
        answered(made.model, made.task, made.task.valid, config, 7, lambda *at: seen.append(at))[0]
        for config in configs
    ]
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-5)
    result = results[0]
    assert result["samples"] == 7 and seen == [(7, 7), (3, 7), (6, 7), (7, 7), *((n, 7) for n in range(1, 8))]
    assert made.model.training
    if family == "gpt":
        assert result["tokens"] == 7 * 32 and result["perplexity"] == pytest.approx(math.exp(result["loss"]))
    else:
        assert result["loss"] == pytest.approx(result["mlm_loss"] + result["nsp_loss"])
        assert result["perplexity"] == pytest.approx(math.exp(result["mlm_loss"]))
        assert {"mlm_accuracy", "nsp_accuracy"} <= result.keys()


def test_evaluation_by_hand(corpus: Corpus, run: Path) -> None:
    made, _ = trainer(run, corpus.config("gpt"))
    source: Any = made.task.valid
    result = evaluate(made.model, made.task, source, corpus.config("gpt", "layout.micro_batch=4"))
    assert result["samples"] == len(source)
    losses, hits = [], []
    for i in range(len(source)):
        tokens, labels = (torch.from_numpy(array)[None] for array in source.sample(i, i)[:2])
        made.model.eval()
        logits = made.model(Batch(tokens, torch.arange(32)[None], torch.zeros(1, dtype=torch.int32)))[0]
        losses.append(nn.functional.cross_entropy(logits, labels[0], reduction="none"))
        hits.append(logits.argmax(-1) == labels[0])
    assert result["loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
    assert result["lm_accuracy"] == pytest.approx(torch.cat(hits).float().mean().item())
