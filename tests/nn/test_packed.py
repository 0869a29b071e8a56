"""Padding left out: the same sums and gradients, dropout on, from fewer tokens."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from phalanx.models.build import build
from phalanx.models.family import configured
from phalanx.nn.batch import Batch
from phalanx.nn.packed import STEP, enable_packing
from tests.batches import batch_of

LENGTHS = (5, 24, 1, 17, 24, 9)
SIZES = {"layers": 2, "hidden": 16, "heads": 2, "positions": 24, "vocab": 50, "dropout": 0.2, "init_std": 0.3}


def padded() -> Batch:
    """Rows of several lengths; padding is 0, and nothing is asked there."""
    tokens = torch.randint(1, 50, (len(LENGTHS), 24), generator=torch.Generator().manual_seed(0))
    document = -torch.ones_like(tokens, dtype=torch.int32)
    for row, length in enumerate(LENGTHS):
        document[row, :length], tokens[row, length:] = 0, 0
    labels = torch.where((document == 0) & (tokens % 3 == 0), tokens, -1)
    related = torch.arange(len(LENGTHS)) % 2
    segment = (torch.arange(24) > 3).long().expand_as(tokens).contiguous()
    return batch_of(tokens, 24, labels=labels, document=document, related=related, segment=segment)


def several() -> Batch:
    """Rows that hold several documents."""
    batch = padded()
    tokens, cuts = batch.tokens.clamp(min=1), torch.tensor([[3], [9], [24], [12], [1], [20]])
    document = (torch.arange(24) >= cuts).int() + (torch.arange(24) >= cuts + 5).int()
    place = torch.arange(24) // (1 + document)  # any that is told
    return batch_of(tokens, 24, labels=tokens.roll(-1, 1), document=document, place=place)


def sums(model: nn.Module, batch: Batch) -> tuple[Mapping[str, Tensor], list[Tensor]]:
    found = model(batch)
    model.zero_grad()
    sum(value for name, value in found.items() if name in ("mlm", "nsp", "lm")).backward()
    return found, [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_the_same_sums_and_gradients(family: str) -> None:
    """A Llama's queries share a key, and its positions are angles."""
    forms = {"bert": {"segments": 2, "norm_first": False}, "gpt2": {}, "llama": {"kv_heads": 1}}
    config = configured(family=family, **SIZES, **forms[family])
    batch = padded() if family == "bert" else several()
    rows, packed = (build(config, 1, torch.device("cpu")).train() for _ in range(2))
    enable_packing(packed, kernel=False)
    (found, grads), (again, again_grads) = sums(rows, batch), sums(packed, batch)
    assert found.keys() == again.keys() and len(grads) == len(again_grads)
    for a, b in zip([*found.values(), *grads], [*again.values(), *again_grads], strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)
    rows.eval(), packed.eval()
    with torch.no_grad():
        torch.testing.assert_close(rows(batch)["answers"], packed(batch)["answers"])


def test_padding_is_not_computed() -> None:
    model, seen = build(configured(family="bert", segments=2, **SIZES), 1, torch.device("cpu")), []
    enable_packing(model, kernel=False)
    model.transformer.blocks["0"].register_forward_pre_hook(lambda _, words: seen.append(words[0].shape))
    model(padded())
    used = -(-sum(LENGTHS) // STEP) * STEP
    assert seen == [(1, used, 16)] and used < len(LENGTHS) * 24


def test_a_batch_of_padding_alone() -> None:
    model, batch = build(configured(family="bert", segments=2, **SIZES), 1, torch.device("cpu")), padded()
    enable_packing(model, kernel=False)
    assert batch.document is not None and batch.labels is not None
    empty = replace(batch, document=batch.document.fill_(-1), labels=batch.labels.fill_(-1))
    assert model(empty)["mlm"] == 0
