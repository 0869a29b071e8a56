"""The description of a model says what its modules are: names, shapes, order, axes, deviations, first weights."""

from typing import Any

import pytest
import torch
from torch import nn

from phalanx.config import ModelConfig
from phalanx.models import build
from phalanx.models.family import configured, spec_of
from phalanx.spec.leaves import Matrix, Norm, Table
from phalanx.spec.model import WORDS
from tests.spec.models import DECODERS, decoders, encoders, name, odd, presets

SMALL = [*odd(), *encoders(), *decoders()]
MODELS = [*SMALL, *presets()]
LOSSES = {"gpt2": ("lm",), **dict.fromkeys(DECODERS, ("lm",)), "bert": ("mlm", "nsp")}


def on_meta(model: ModelConfig) -> nn.Module:
    with torch.device("meta"):
        return build.make(model)


@pytest.mark.parametrize("model", MODELS, ids=name)
def test_parameters_are_those_of_the_modules(model: ModelConfig) -> None:
    built = on_meta(model)
    shapes = [(name, tuple(parameter.shape)) for name, parameter in built.named_parameters()]
    assert shapes == [(parameter.name, parameter.shape) for parameter in spec_of(model).parameters()]


@pytest.mark.parametrize("model", SMALL, ids=name)
def test_leaves_are_those_of_the_modules(model: ModelConfig) -> None:
    built = on_meta(model)
    for path, leaf in spec_of(model).leaves():
        module: Any = built.get_submodule(path)
        if isinstance(leaf, Matrix):
            assert module.axes == (leaf.inputs.axis, leaf.outputs.axis)
            assert leaf.tied == (WORDS if module.weight is None else "")
            assert leaf.tied or module.std == leaf.std
        elif isinstance(leaf, Table):
            assert module.axes == (leaf.rows.axis, leaf.hidden.axis) and module.std == leaf.std
        else:
            assert isinstance(leaf, Norm) and module.eps == leaf.eps


@pytest.mark.parametrize("model", MODELS, ids=name)
def test_counts_and_losses(model: ModelConfig) -> None:
    spec = spec_of(model)
    built = sum(parameter.numel() for parameter in on_meta(model).parameters())
    head, tied = getattr(model, "head", ""), getattr(model, "tied", True)
    tables = 2 if model.family in DECODERS and not tied else 1
    assert spec.elements == built - tables * (model.padded_vocab - model.vocab) * model.hidden
    losses = LOSSES.get(model.family, ("mlm",))
    assert spec.causal == (losses == ("lm",))
    assert spec.losses == ((head,) if head else losses)
    assert spec.tied == (tied and not head)


def test_equal_models_are_described_once() -> None:
    one, other = (configured(family="gpt2", vocab=77) for _ in range(2))
    assert spec_of(one) is spec_of(other)
    assert len(set(spec_of(one).blocks)) == 1, "equal blocks are equal values"
