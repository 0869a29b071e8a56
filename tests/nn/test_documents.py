"""Attention stops at documents, at padding and at the future."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from phalanx.data.source import Sample
from phalanx.models.build import build
from phalanx.models.family import configured
from phalanx.nn.batch import Batch
from phalanx.train.collate import make_batch
from tests.batches import batch_of

POSITIONS, VOCAB = 12, 50
CPU = torch.device("cpu")
FAMILIES = {
    "gpt2": {},
    "bert": {"family": "bert", "norm_first": False, "gelu": "erf", "segments": 2},
    "megatron bert": {"family": "bert", "gelu": "erf", "segments": 2},
}
DOCUMENT = torch.tensor([[0] * 5 + [1] * 4 + [-1] * 3]).int()


@pytest.fixture(params=[0.0, 0.1], ids=["fused attention", "attention dropout"])
def attention_dropout(request: pytest.FixtureRequest) -> float:
    return request.param


def model_of(family: str, attention_dropout: float = 0) -> nn.Module:
    config = configured(layers=2, hidden=32, heads=4, positions=POSITIONS, vocab=VOCAB, init_std=0.5,
                         attention_dropout=attention_dropout, **FAMILIES[family])  # fmt: skip
    return build(config, 0, CPU)


def batch(tokens: Tensor, document: Tensor | None = DOCUMENT) -> Batch:
    return batch_of(tokens, POSITIONS, key=3, document=document)


def changed(model: nn.Module, places: slice, document: Tensor | None = DOCUMENT) -> list[bool]:
    """Which positions' logits differ when the tokens at `places` do."""
    tokens = torch.arange(POSITIONS)[None] % VOCAB
    other = tokens.clone()
    other[:, places] += 20
    with torch.no_grad():
        difference = model(batch(tokens, document)) - model(batch(other, document))
    return (difference.abs().amax(-1) > 1e-4)[0].tolist()


def at(*places: int) -> list[bool]:
    return [place in places for place in range(POSITIONS)]


@pytest.mark.parametrize("family", FAMILIES)
def test_another_document_changes_nothing(family: str, attention_dropout: float) -> None:
    """While training too: the same masks fall on the same places."""
    model = model_of(family, attention_dropout)
    causal = family == "gpt2"
    assert changed(model, slice(0, 1)) == at(0, 1, 2, 3, 4)
    assert changed(model, slice(4, 5)) == (at(4) if causal else at(0, 1, 2, 3, 4))
    assert changed(model, slice(6, 7)) == (at(6, 7, 8) if causal else at(5, 6, 7, 8))
    assert changed(model, slice(9, 12)) == at(9, 10, 11)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_documents_all_is_seen(family: str, attention_dropout: float) -> None:
    seen = changed(model_of(family, attention_dropout), slice(6, 7), document=None)
    assert seen == (at(*range(6, POSITIONS)) if family == "gpt2" else at(*range(POSITIONS)))


@pytest.mark.parametrize("family", FAMILIES)
def test_one_document_is_as_no_documents(family: str) -> None:
    model = model_of(family)
    tokens = torch.arange(POSITIONS)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(batch(tokens, torch.zeros_like(DOCUMENT))), model(batch(tokens, None)))


def test_a_document_alone_has_the_logits_it_has_among_others() -> None:
    """Up to its positions: the second document keeps the places it has in the sequence."""
    model = model_of("gpt2").eval()
    tokens = torch.arange(POSITIONS)[None]
    whole = batch(tokens)
    alone = Batch(tokens[:, 5:9], whole.index[:, 5:9], whole.key)
    with torch.no_grad():
        torch.testing.assert_close(model(alone), model(whole)[:, 5:9], rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_positions_may_restart_at_documents(family: str) -> None:
    """Then a document has the logits that it has at a sequence's begin, whatever stands before it."""
    config = configured(family=family, layers=2, hidden=32, heads=4, positions=POSITIONS, vocab=VOCAB, init_std=0.5)
    model = build(config, 0, CPU).eval()
    tokens = torch.arange(POSITIONS).numpy()
    places = np.array([0] * 5 + [1] * 7, np.int32)
    going_on, restarting = (
        make_batch([Sample(tokens, tokens, None, places, -1)], POSITIONS, 0, 0, restart=restart)
        for restart in (False, True)
    )
    assert going_on.places(POSITIONS).tolist() == [[*range(12)]]
    assert restarting.places(POSITIONS).tolist() == [[*range(5), *range(7)]]

    alone = batch_of(going_on.tokens[:, 5:], POSITIONS)
    with torch.no_grad():
        expected, among, held = (model(replace(each, labels=None)) for each in (alone, restarting, going_on))
    torch.testing.assert_close(among[:, 5:], expected, rtol=0, atol=1e-4)
    apart = (held[:, 5:] - expected).abs().max()
    assert apart > 0.1 if family == "gpt2" else apart < 1e-3, "a rotary score depends on distances alone"
