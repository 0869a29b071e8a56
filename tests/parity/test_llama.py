"""Models of the Llama kind are those of Hugging Face: RMS norms, rotary positions, grouped queries, gates."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from phalanx.convert.linked import imported
from phalanx.models.llama import HUGGING_FACE
from phalanx.nn.model import Model
from phalanx.spec.leaves import Dim, Matrix, Norm, Table
from phalanx.spec.links import links
from phalanx.spec.model import MLP, WORDS, Attention, Block, Embeddings, Head, Spec
from phalanx.spec.rope import Rope
from tests.batches import batch_of

VOCAB, HIDDEN, HEADS, KEYS, WIDTH, INNER, LAYERS, POSITIONS = 131, 48, 6, 2, 10, 56, 2, 64
CLOSE = 1e-4
SIZES = {
    "vocab_size": VOCAB, "hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_key_value_heads": KEYS,
    "intermediate_size": INNER, "num_hidden_layers": LAYERS, "max_position_embeddings": POSITIONS, "head_dim": WIDTH,
}  # fmt: skip
KINDS = {
    "llama": (LlamaConfig(**SIZES), LlamaForCausalLM),
    "llama tied": (LlamaConfig(**SIZES, tie_word_embeddings=True), LlamaForCausalLM),
    "llama all heads": (LlamaConfig(**SIZES | {"num_key_value_heads": HEADS}), LlamaForCausalLM),
    "llama one key head": (LlamaConfig(**SIZES | {"num_key_value_heads": 1}), LlamaForCausalLM),
    "mistral": (MistralConfig(**SIZES, sliding_window=None), MistralForCausalLM),
    "qwen2": (Qwen2Config(**SIZES | {"head_dim": HIDDEN // HEADS}), Qwen2ForCausalLM),
}


def spec_like(config: Any) -> Spec:
    """The description of one of these models."""
    embed, norm = Dim("embed", HIDDEN), Norm(Dim("embed", HIDDEN), config.rms_norm_eps, "rms", bias=False)
    keys, width = config.num_key_value_heads, config.head_dim or HIDDEN // HEADS
    rope = Rope(config.rope_parameters["rope_theta"], width)
    bias = (config.model_type == "qwen2", False)
    attention = Attention(HIDDEN, HEADS, keys, width, causal=True, bias=bias, rope=rope)
    block = Block(norm, attention, norm, MLP(HIDDEN, INNER, "silu", gated=True, bias=False))
    words = Dim("vocab", VOCAB, padded=136)
    tied = WORDS if config.tie_word_embeddings else ""
    head = Head("lm", (("head", Matrix(embed, words, bias=False, per="label", tied=tied)),))
    return Spec(HIDDEN, POSITIONS, Embeddings(Table(words, embed)), (block,) * LAYERS, norm, (head,))


def ours(theirs: Mapping[str, Tensor], spec: Spec) -> dict[str, Tensor]:
    """Their weights under our names."""
    return dict(imported(links(spec, HUGGING_FACE["llama"].names), theirs))


@pytest.fixture(params=KINDS, ids=str)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Model]:
    config, kind = KINDS[request.param]
    torch.manual_seed(0)
    theirs = kind(config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model = Model(spec_like(config)).eval()
    model.load_state_dict(ours(theirs.state_dict(), model.spec))
    return theirs, model


def test_logits(pair: tuple[Any, Model]) -> None:
    theirs, model = pair
    tokens = torch.randint(VOCAB, (3, POSITIONS), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, got = theirs(tokens).logits, model(batch_of(tokens, POSITIONS))
    assert got.shape == expected.shape and (got - expected).abs().max() < CLOSE * expected.abs().max()


def test_gradients(pair: tuple[Any, Model]) -> None:
    """Of the queries of a group and of the key and value that they share, of gates, of norms, of a head of its own."""
    theirs, model = pair
    tokens = torch.randint(VOCAB, (2, 17), generator=torch.Generator().manual_seed(2))
    expected = torch.nn.functional.cross_entropy(theirs(tokens[:, :-1]).logits.flatten(0, 1), tokens[:, 1:].flatten())
    expected.backward()
    sums = model(replace(batch_of(tokens[:, :-1], POSITIONS), labels=tokens[:, 1:]))
    (sums["lm"] / 32).backward()
    assert abs(sums["lm"].item() / 32 - expected.item()) < CLOSE
    grads = ours(
        {name: parameter.grad for name, parameter in theirs.named_parameters(remove_duplicate=False)}, model.spec
    )
    for name, parameter in model.named_parameters():
        assert (parameter.grad - grads[name]).abs().max() < CLOSE * grads[name].abs().max().clamp_min(1e-3), name
