"""GPT-2 against Hugging Face's: logits, loss, every gradient, and a published tiny model's outputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from phalanx.config import ModelConfig
from phalanx.models.build import make
from phalanx.models.family import configured
from phalanx.nn.model import Model
from tests.batches import batch_of
from tests.convert.folders import from_hugging_face, to_hugging_face

CLOSE = {"rtol": 0, "atol": 1e-5}

CONFIGS = {
    "padded vocabulary": configured(layers=2, hidden=48, heads=3, positions=24, vocab=131, dropout=0),
    "whole vocabulary": configured(layers=3, hidden=32, heads=4, positions=16, vocab=256, dropout=0),
    "narrow feed-forward": configured(layers=1, hidden=40, heads=1, ffn=56, positions=16, vocab=50, norm_eps=1e-3),
    "wide heads, erf": configured(layers=2, hidden=64, heads=2, positions=16, vocab=129, gelu="erf", pad_vocab_to=8),
}


def hugging_face(config: ModelConfig) -> GPT2LMHeadModel:
    """A random model of theirs, with biases and norms random too, so that a mix-up of them shows."""
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=config.vocab,
            n_positions=config.positions,
            n_embd=config.hidden,
            n_layer=config.layers,
            n_head=config.heads,
            n_inner=config.ffn or None,
            activation_function="gelu_new" if config.gelu == "tanh" else "gelu",
            layer_norm_epsilon=config.norm_eps,
            attn_implementation="eager",
        )
    )
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return theirs.eval()


def ours_from(theirs: GPT2LMHeadModel, config: ModelConfig) -> Model:
    model = make(config)
    model.load_state_dict(dict(from_hugging_face(theirs.state_dict(), config)))
    return model.eval()


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def pair(request: pytest.FixtureRequest) -> tuple[GPT2LMHeadModel, Model, ModelConfig]:
    torch.manual_seed(0)
    theirs = hugging_face(request.param)
    return theirs, ours_from(theirs, request.param), request.param


def random_tokens(config: ModelConfig) -> Tensor:
    return torch.randint(config.vocab, (3, config.positions))


def shifted(tokens: Tensor) -> Tensor:
    """Labels: the next token, and none for the last."""
    return F.pad(tokens[:, 1:], (0, 1), value=-1)


def assert_same_gradients(model: Model, theirs: GPT2LMHeadModel, config: ModelConfig) -> None:
    ours = {name: p.grad for name, p in model.named_parameters()}
    mapped = dict(to_hugging_face(ours, config))
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(mapped[name], parameter.grad, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")
    padding = ours["transformer.embeddings.token.weight"][config.vocab :]
    assert padding.count_nonzero() == 0


@pytest.mark.numerics
def test_logits(pair: tuple[GPT2LMHeadModel, Model, ModelConfig]) -> None:
    theirs, model, config = pair
    tokens = random_tokens(config)
    with torch.no_grad():
        torch.testing.assert_close(model(batch_of(tokens, config.positions)), theirs(tokens).logits, **CLOSE)


@pytest.mark.numerics
def test_loss_and_every_gradient(pair: tuple[GPT2LMHeadModel, Model, ModelConfig]) -> None:
    theirs, model, config = pair
    tokens = random_tokens(config)
    labels = shifted(tokens)
    loss = model(batch_of(tokens, config.positions, labels=labels))["lm"] / (labels >= 0).sum()
    expected = theirs(tokens, labels=tokens).loss
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, **CLOSE)
    assert_same_gradients(model, theirs, config)


def test_padding_changes_nothing(pair: tuple[GPT2LMHeadModel, Model, ModelConfig]) -> None:
    """Padding is document -1 here and an attention mask there; its positions have no labels."""
    theirs, model, config = pair
    tokens, lengths = random_tokens(config), torch.tensor([config.positions, 5, 9])
    real = torch.arange(config.positions) < lengths[:, None]
    labels = torch.where(real, shifted(tokens), -1)
    document = torch.where(real, 0, -1).int()
    loss = model(batch_of(tokens, config.positions, labels=labels, document=document))["lm"] / (labels >= 0).sum()
    logits = theirs(tokens, attention_mask=real.long()).logits
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, **CLOSE)
    assert_same_gradients(model, theirs, config)


def test_correct_is_counted_in_evaluation(pair: tuple[GPT2LMHeadModel, Model, ModelConfig]) -> None:
    theirs, model, config = pair
    tokens = random_tokens(config)
    with torch.no_grad():
        guesses = theirs(tokens).logits.argmax(-1)
        labels = torch.where(torch.rand(tokens.shape) < 0.5, guesses, tokens)
        sums = model(batch_of(tokens, config.positions, labels=labels))
    assert sums["lm_correct"] == (guesses == labels).sum()


def test_weights_there_and_back_are_bit_equal(pair: tuple[GPT2LMHeadModel, Model, ModelConfig]) -> None:
    theirs, model, config = pair
    back = dict(to_hugging_face(model.state_dict(), config))
    original = theirs.state_dict()
    tied = {"lm_head.weight"}
    assert back.keys() == original.keys() - tied
    assert all(torch.equal(back[name], original[name]) for name in back)


@pytest.fixture
def tiny(data_dir: Path) -> tuple[Model, dict[str, Tensor], ModelConfig]:
    """The published tiny-random-gpt2 in our model, and what it answers."""
    folder = data_dir / "fixtures" / "tiny_models" / "tiny_random_gpt2"
    facts = json.loads((folder / "config.json").read_text())
    config = configured(
        vocab=facts["vocab_size"],
        positions=facts["n_positions"],
        hidden=facts["n_embd"],
        layers=facts["n_layer"],
        heads=facts["n_head"],
        norm_eps=facts["layer_norm_epsilon"],
    )
    weights = {name: torch.from_numpy(array) for name, array in np.load(folder / "weights.npz").items()}
    model = make(config)
    model.load_state_dict(dict(from_hugging_face(weights, config)))
    expected = {name: torch.from_numpy(np.asarray(array)) for name, array in np.load(folder / "expected.npz").items()}
    return model.eval(), expected, config


@torch.no_grad()
def test_published_model_logits(tiny: tuple[Model, dict[str, Tensor], ModelConfig]) -> None:
    model, expected, config = tiny
    logits = model(batch_of(expected["ids"], config.positions))
    torch.testing.assert_close(logits, expected["logits"], **CLOSE)
    long = model(batch_of(expected["ids_512"], config.positions))[:, -8:]
    torch.testing.assert_close(long, expected["logits_512_last8"], **CLOSE)
    labels = shifted(expected["ids"])
    loss = model(batch_of(expected["ids"], config.positions, labels=labels))["lm"].double() / (labels >= 0).sum()
    torch.testing.assert_close(loss, expected["mean_next_token_loss"], **CLOSE)


@torch.no_grad()
def test_published_model_greedy_sequences(tiny: tuple[Model, dict[str, Tensor], ModelConfig]) -> None:
    model, expected, config = tiny
    tokens = expected["greedy_prompt"]
    while tokens.shape[1] < expected["greedy_expected"].shape[1]:
        best = model(batch_of(tokens, config.positions))[:, -1:].argmax(-1)
        tokens = torch.cat([tokens, best], dim=1)
    assert torch.equal(tokens, expected["greedy_expected"])
