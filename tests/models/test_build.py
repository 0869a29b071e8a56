"""Building: shapes that cannot be are one clear line; weights follow the seed and nothing else."""

import math

import pytest
import torch

from phalanx.config import ModelConfig
from phalanx.errors import InputError
from phalanx.models.build import build
from phalanx.models.family import configured, with_preset
from phalanx.nn.model import Model

CPU = torch.device("cpu")
SMALL = configured(layers=2, hidden=64, heads=4, positions=32, vocab=300)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (configured(hidden=64, heads=3, vocab=10), ["model.heads=3", "model.hidden=64", "1, 2, 4"]),
        (configured(hidden=64, heads=4), ["model.vocab=0"]),
    ],
)
def test_impossible_models_are_one_line(config: ModelConfig, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        build(config, 0, CPU)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)


def test_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"model\.preset=huge .*base"):
        with_preset({"family": "bert", "preset": "huge"})
    with pytest.raises(InputError, match=r"unknown model\.family 'gpt3'.* gpt2, bert"):
        configured(family="gpt3", hidden=64, heads=4, vocab=10)


def test_weights_follow_the_seed() -> None:
    first, again, other = (build(SMALL, seed, CPU).state_dict() for seed in (7, 7, 8))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["transformer.embeddings.token.weight"], other["transformer.embeddings.token.weight"])


def test_the_same_weights_in_a_deeper_model() -> None:
    """A weight depends on its name and place, not on what else the model has; only the residual scale changes."""
    short, deep = build(SMALL, 7, CPU), build(SMALL.model_copy(update={"layers": 8}), 7, CPU)
    for name in ("transformer.embeddings.token.weight", "transformer.blocks.1.attention.qkv.weight"):
        assert torch.equal(short.get_parameter(name), deep.get_parameter(name))
    out = "transformer.blocks.1.attention.out.weight"
    torch.testing.assert_close(short.get_parameter(out), 2 * deep.get_parameter(out))


def test_first_weights_as_in_other_papers() -> None:
    """None beyond a cut, residual outputs as wide as the rest, a head of its own by its width."""
    sizes = {"family": "llama", "layers": 4, "hidden": 64, "heads": 4, "positions": 32, "vocab": 3000}
    keys = {"init_std": 0.05, "init_cut": 2.0, "init_residual": "same", "init_head": "width"}
    cut = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))  # a normal's, within 2 std
    for name, parameter in build(configured(**sizes, **keys), 0, CPU).named_parameters():
        if ".norm" not in name:
            std = 1 / 8 if name.startswith("head") else 0.05
            assert parameter.abs().max() <= 2 * std
            assert parameter.std().item() == pytest.approx(std * cut, rel=0.05)
    assert configured(**sizes).stds == (0.02, 0.02 / math.sqrt(8)) and configured(**sizes).head_std == 0.02


def test_standard_deviations() -> None:
    model = build(SMALL, 0, CPU)
    residual = 0.02 / math.sqrt(2 * SMALL.layers)
    assert isinstance(model, Model)
    for name, parameter in model.named_parameters():
        if ".norm" in name or name.endswith("bias"):
            assert torch.equal(parameter, torch.full_like(parameter, float(".norm" in name and "weight" in name)))
        else:
            std = residual if name.endswith(("attention.out.weight", "feed_forward.down.weight")) else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=0.05), name
            assert abs(parameter.mean().item()) < 5 * std / math.sqrt(parameter.numel()), name
