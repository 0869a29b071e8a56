"""Sums over the description of a model are what papers and people write down for GPT-2 and BERT."""

import pytest

from phalanx.config import ModelConfig
from phalanx.models.family import configured, spec_of
from phalanx.spec.costs import collectives, decoders, flops_per_token, products, saved, scores
from phalanx.spec.partition import Ranks, partial
from tests.spec.models import name, odd, presets

MODEL = configured(layers=3, hidden=40, heads=4, ffn=56, vocab=77, positions=12)
BLOCK = spec_of(MODEL).blocks[0]
TENSOR = [(1, False), (2, True), (2, False), (4, True), (4, False)]


@pytest.mark.parametrize("model", [*odd(), *presets()], ids=name)
def test_flops_as_they_are_published(model: ModelConfig) -> None:
    """6 a weight that multiplies, 12 × layers × heads × width × sequence for attention (arXiv 2104.04473, appendix)."""
    spec = spec_of(model)
    heads, gated = model.heads, spec.blocks[0].feed_forward.gated
    keys, width = getattr(model, "kv_heads", heads), getattr(model, "width", model.hidden // heads)
    block = 2 * (heads + keys) * width * model.hidden + (2 + gated) * model.hidden * model.ffn
    weights = model.layers * block + (0 if spec.tuned else model.vocab * model.hidden)
    reach = (block.attention.window * (1 if spec.causal else 2) - (not spec.causal) for block in spec.blocks)
    seen = [min(keys, 512) if keys > 0 else 512 for keys in reach]
    assert flops_per_token(spec, 512) == 6 * weights + 12 * heads * width * sum(seen)
    assert len([*decoders(spec)]) == (not spec.tuned)


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_products_of_a_block(tp: int) -> None:
    """Queries, keys and values; the way out of attention; up; down."""
    shapes = [(each.rows, each.n, each.k) for each in products(BLOCK, 9, ranks=Ranks(tp))]
    assert shapes == [(9, 120 // tp, 40), (9, 40, 40 // tp), (9, 56 // tp, 40), (9, 40, 56 // tp)]


def test_products_of_heads() -> None:
    """BERT's transform and vocabulary at each label; poolers and classifiers once a sequence, or at each token."""
    for model in odd():
        heads = spec_of(model).heads
        made = [(each.rows, each.k, each.n) for head in heads for each in products(head, 12, 5, 2)]
        pooled = [(2, 40, 40), (2, 40, {"": 2, "classes": 3}.get(spec_of(model).tuned, 1))]
        answers = {"tokens": [(12, 40, 3)], "span": [(12, 40, 2)]}.get(spec_of(model).tuned, pooled)
        words = [(5, 40, 77)] if model.family == "gpt2" else [(5, 40, 40), (5, 40, 77), *pooled]
        assert made == (answers if spec_of(model).tuned else words)


@pytest.mark.parametrize(("tp", "sequence"), TENSOR)
def test_what_every_rank_applies_to_its_own_positions(tp: int, sequence: bool) -> None:
    """With sequence parallelism: two norms and two biases of a block, the norm at the end, the table of positions."""
    lacking = sum(
        parameter.elements for parameter in spec_of(MODEL).parameters() if partial(parameter, Ranks(tp, sequence))
    )
    assert lacking == ((3 * (4 + 2) + 2) * 40 + 12 * 40 if sequence else 0)


@pytest.mark.parametrize(("tp", "sequence"), TENSOR)
@pytest.mark.parametrize("narrow", [2, 4])
def test_bytes_that_a_block_keeps(tp: int, sequence: bool, narrow: int) -> None:
    """After Korthikanti et al. (arXiv 2205.05198, section 4). Of each token: what two norms begin with, in fp32; what
    qkv and up read; queries, keys, values and what attention gives, and both sides of the activation, split. Weights
    are kept where products take them narrower than they are.
    """
    tokens, weights = saved(BLOCK, Ranks(tp, sequence), narrow)
    assert tokens == 2 * 4 * 40 / (tp if sequence else 1) + narrow * (2 * 40 + (4 * 40 + 2 * 56) / tp)
    assert weights == (2 * (4 * 40**2 + 2 * 40 * 56) / tp if narrow == 2 else 0)
    tokens, weights = saved(BLOCK.feed_forward, Ranks(tp, sequence), narrow)
    assert tokens == narrow * (40 + 2 * 56 / tp)
    assert weights == (2 * 2 * 40 * 56 / tp if narrow == 2 else 0)


@pytest.mark.parametrize(("tp", "sequence"), TENSOR)
def test_collectives_of_a_block(tp: int, sequence: bool) -> None:
    """Two conjugate pairs (Shoeybi et al., arXiv 1909.08053; Korthikanti et al., arXiv 2205.05198)."""
    pair = [("gather", 40), ("scatter", 40)] if sequence else [("copy", 40), ("reduce", 40)]
    assert [*collectives(BLOCK, Ranks(tp, sequence))] == (2 * pair if tp > 1 else [])


def test_half_of_the_keys_are_seen_by_a_causal_mask() -> None:
    spec = spec_of(next(odd()))
    assert scores(spec, 3, masked=True) == scores(spec, 3) * 2 / 3  # one, two and three keys, of three each
