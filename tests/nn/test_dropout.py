"""Dropout that depends on global coordinates only: in backward, on any split, under recompute."""

import pytest
import torch
from torch import Tensor

from phalanx.models.build import build
from phalanx.models.family import configured
from phalanx.nn.attention import Context, Dropping, fused
from phalanx.nn.batch import Batch
from phalanx.nn.block import Block
from phalanx.nn.dropout import Dropout
from tests.batches import batch_of

POSITIONS = 16
CPU = torch.device("cpu")


def coordinates(rows: int, seq: int) -> tuple[Tensor, Tensor]:
    index = torch.arange(rows)[:, None] * POSITIONS + torch.arange(seq)
    return index, torch.full((rows,), 99, dtype=torch.int32)


def test_backward_draws_the_same_mask() -> None:
    dropout = Dropout(0.3, site=4)
    x = torch.randn(3, 8, 32, requires_grad=True)
    y = dropout(x, *coordinates(3, 8))
    y.backward(torch.ones_like(y))
    kept = y != 0
    assert 0.2 < 1 - kept.double().mean().item() < 0.4
    torch.testing.assert_close(y[kept], x[kept] / 0.7)
    assert x.grad is not None
    assert torch.equal(x.grad != 0, kept)
    torch.testing.assert_close(x.grad[kept], torch.full_like(x.grad[kept], 1 / 0.7))


def test_nothing_of_the_size_of_the_input_is_kept() -> None:
    sizes: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        Dropout(0.3, site=4)(torch.randn(3, 8, 32, requires_grad=True), *coordinates(3, 8))
    assert sizes == [3 * 8]


def test_evaluation_and_zero_leave_the_input_alone() -> None:
    x = torch.randn(2, 4, 8)
    assert Dropout(0.3, site=1).eval()(x, *coordinates(2, 4)) is x
    assert Dropout(0.0, site=1)(x, *coordinates(2, 4)) is x


def test_splitting_the_batch_or_the_sequence_changes_nothing() -> None:
    dropout = Dropout(0.3, site=4)
    x = torch.randn(4, 8, 32)
    index, key = coordinates(4, 8)
    whole = dropout(x, index, key)
    rows = [dropout(x[part], index[part], key[part]) for part in (slice(0, 1), slice(1, 4))]
    assert torch.equal(torch.cat(rows), whole)
    parts = [dropout(x[:, part], index[:, part], key) for part in (slice(0, 3), slice(3, 8))]
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_site_and_key_change_the_mask() -> None:
    x, (index, key) = torch.ones(2, 8, 64), coordinates(2, 8)
    first = Dropout(0.5, site=1)(x, index, key)
    others = [Dropout(0.5, site=2)(x, index, key), Dropout(0.5, site=1)(x, index, key + 1)]
    for other in others:
        assert 0.4 < (first == other).double().mean().item() < 0.6
    assert torch.equal(first, Dropout(0.5, site=1)(x, index, key))


def test_reset_restores_the_site_of_a_materialised_model() -> None:
    with torch.device("meta"):
        dropout = Dropout(0.5, site=7)
    dropout.to_empty(device="cpu")
    dropout.site.zero_()
    dropout.reset()
    x, where = torch.ones(2, 8, 64), coordinates(2, 8)
    assert torch.equal(dropout(x, *where), Dropout(0.5, site=7)(x, *where))


def model_of(recompute: str = "none", **keys: object) -> torch.nn.Module:
    defaults = {"layers": 2, "hidden": 32, "heads": 4, "positions": POSITIONS, "vocab": 60, "dropout": 0.2}
    config = configured(**defaults | keys)
    model = build(config, 3, CPU)
    for block in model.modules():
        if isinstance(block, Block):
            block.recompute = recompute
    return model


def tokens_and_labels() -> Batch:
    tokens = torch.randint(60, (4, POSITIONS), generator=torch.Generator().manual_seed(0))
    labels = torch.where(tokens % 3 == 0, tokens, -1)
    return batch_of(tokens, POSITIONS, key=99, labels=labels)


def gradients(model: torch.nn.Module, batch: Batch) -> dict[str, Tensor]:
    model.zero_grad()
    sums = model(batch)
    sums["mlm" if "mlm" in sums else "lm"].backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


BERT = {"family": "bert", "norm_first": False, "gelu": "erf", "segments": 2}


@pytest.mark.parametrize("family", [{}, BERT], ids=["gpt2", "bert"])
@pytest.mark.parametrize("attention_dropout", [0.0, 0.2])
@pytest.mark.parametrize("recompute", ["block", "attention"])
def test_recompute_gives_bit_equal_gradients(
    family: dict[str, object], attention_dropout: float, recompute: str
) -> None:
    keys = {**family, "attention_dropout": attention_dropout}
    kept, again = (gradients(model_of(mode, **keys), tokens_and_labels()) for mode in ("none", recompute))
    assert kept.keys() == again.keys()
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_recompute_keeps_less() -> None:
    def kept(recompute: str) -> int:
        storages: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            storages[tensor.data_ptr()] = tensor.nbytes
            return tensor

        model = model_of(recompute, layers=4)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(tokens_and_labels())
        return sum(storages.values())

    assert kept("block") < kept("attention") < kept("none")


@pytest.mark.parametrize("family", [{}, BERT], ids=["gpt2", "bert"])
@pytest.mark.parametrize("attention_dropout", [0.0, 0.2])
def test_micro_batches_sum_to_the_batch(family: dict[str, object], attention_dropout: float) -> None:
    """Gradient accumulation with dropout on: coordinates, not calls, make the masks."""
    model, batch = model_of(**family, attention_dropout=attention_dropout), tokens_and_labels()
    whole = gradients(model, batch)
    parts = [gradients(model, batch.rows(start, stop)) for start, stop in ((0, 1), (1, 4))]
    for name in whole:
        torch.testing.assert_close(parts[0][name] + parts[1][name], whole[name], rtol=0, atol=2e-5)


def attention_inputs() -> tuple[list[Tensor], Context]:
    torch.manual_seed(0)
    index, key = coordinates(2, 8)
    return [torch.randn(2, 4, 8, 8) for _ in range(3)], Context(index, key, None, causal=True)


def test_attention_dropout_is_the_formula_with_some_probabilities_zeroed() -> None:
    (q, k, _), context = attention_inputs()
    one_hot = torch.eye(8).expand(2, 4, 8, 8)  # as values: the output is the probabilities
    probabilities, dropped = fused(q, k, one_hot, context), Dropping(0.3, site=4)(q, k, one_hot, context)
    kept, past = dropped != 0, torch.ones(8, 8).tril().bool().expand(2, 4, 8, 8)
    torch.testing.assert_close(dropped[kept], probabilities[kept] / 0.7)
    assert not kept[~past].any()
    assert 0.2 < 1 - kept[past].double().mean().item() < 0.4
    assert torch.equal(Dropping(0.3, site=4).eval()(q, k, one_hot, context), probabilities)


def test_attention_masks_differ_by_head_row_site_and_key() -> None:
    (q, k, _), context = attention_inputs()
    one_hot = torch.eye(8).expand(2, 4, 8, 8)
    kept = Dropping(0.5, site=4)(q, k, one_hot, context) != 0
    assert not torch.equal(kept[:, 0], kept[:, 1])
    assert not torch.equal(kept[0], kept[1])
    assert not torch.equal(kept, Dropping(0.5, site=5)(q, k, one_hot, context) != 0)
    later = Context(context.index, context.key + 1, None, causal=True)
    assert not torch.equal(kept, Dropping(0.5, site=4)(q, k, one_hot, later) != 0)


def test_attention_masks_of_some_heads_are_those_of_all() -> None:
    """A tensor-parallel rank holds heads `first_head` and up."""
    (q, k, v), context = attention_inputs()
    whole = Dropping(0.3, site=4)(q, k, v, context)
    part = Dropping(0.3, site=4)
    part.first_head = 2
    torch.testing.assert_close(part(q[:, 2:], k[:, 2:], v[:, 2:], context), whole[:, 2:], rtol=0, atol=1e-6)
