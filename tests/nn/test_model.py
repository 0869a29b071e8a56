"""A model is built from its description, or what is not computed of it is refused."""

from dataclasses import replace

import pytest
import torch

from phalanx.errors import InputError
from phalanx.models.family import configured, spec_of
from phalanx.nn.batch import Batch
from phalanx.nn.init import initialise
from phalanx.nn.model import Model
from phalanx.spec.leaves import Dim, Matrix, Per
from phalanx.spec.model import Head, Spec


def described(family: str) -> Spec:
    return spec_of(configured(family=family, layers=1, hidden=32, heads=2, vocab=50, positions=16, dropout=0.0))


def lm(path: str = "head", tied: str = "", per: Per = "label") -> Head:
    """A head for the next token."""
    words = Matrix(Dim("embed", 32), Dim("vocab", 50, padded=128), bias=False, per=per, tied=tied)
    return Head("lm", ((path, words),))


@pytest.mark.parametrize(
    ("heads", "reason"),
    [
        ((lm("decoder"),), "a head for lm whose leaves are decoder, not head"),
        ((lm(tied="transformer.embeddings.position.weight"),), "tied to transformer.embeddings.position.weight"),
        ((lm(per="token"),), "the matrix head for each token, where one for each label is computed"),
        ((lm(), lm()), "heads for lm and lm, not one over the vocabulary"),
        ((lm(), described("bert").heads[0]), "heads for lm and mlm, not one over the vocabulary"),
        ((described("bert").heads[1],), "heads for nsp, not one over the vocabulary"),
        ((replace(lm(), loss="rtd"),), "a head for rtd"),
    ],
)
def test_heads_that_nothing_computes_are_refused(heads: tuple[Head, ...], reason: str) -> None:
    """By name, rather than built and left without gradients."""
    with pytest.raises(InputError, match=reason):
        Model(replace(described("gpt2"), heads=heads))


def test_a_masked_head_may_have_a_matrix_of_its_own() -> None:
    """All that is described is in the module, under its name, and has a gradient."""
    spec = described("bert")
    masked = spec.heads[0]
    chain = tuple((path, replace(leaf, tied="") if isinstance(leaf, Matrix) else leaf) for path, leaf in masked.chain)
    spec = replace(spec, heads=(replace(masked, chain=chain), spec.heads[1]))
    model = Model(spec)
    initialise(model, 0)
    assert {name for name, _ in model.named_parameters()} == {parameter.name for parameter in spec.parameters()}

    tokens = torch.randint(50, (2, 8), generator=torch.Generator().manual_seed(0))
    index = torch.arange(2)[:, None] * 16 + torch.arange(8)
    batch = Batch(tokens, index, torch.zeros(2, dtype=torch.int32), tokens, related=torch.tensor([0, 1]))
    sums = model(batch)
    (sums["mlm"] + sums["nsp"]).backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    assert without <= {"transformer.embeddings.segment.weight"}
