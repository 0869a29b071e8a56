"""GPT-2's weights from and to Hugging Face's names."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from phalanx.config import ModelConfig
from phalanx.convert import names

_BLOCK = {
    "norm1": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "norm2": "ln_2",
    "feed_forward.up": "mlp.c_fc",
    "feed_forward.down": "mlp.c_proj",
}


def from_hugging_face(state: Mapping[str, Tensor], config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """This model's weights from those of `GPT2LMHeadModel` (with or without "transformer." before names)."""
    at = "transformer." if "transformer.wte.weight" in state else ""
    yield "transformer.embeddings.token.weight", names.pad_rows(state[f"{at}wte.weight"], config)
    yield "transformer.embeddings.position.weight", state[f"{at}wpe.weight"]
    for layer in range(config.layers):
        for ours, theirs in _BLOCK.items():
            for kind in ("weight", "bias"):
                tensor = state[f"{at}h.{layer}.{theirs}.{kind}"]
                tensor = tensor.t() if tensor.ndim == 2 else tensor  # Conv1D keeps [in, out]
                if ours == "attention.qkv":
                    tensor = names.join_heads(tensor.contiguous(), config.heads)
                yield f"transformer.blocks.{layer}.{ours}.{kind}", tensor.contiguous()
    for kind in ("weight", "bias"):
        yield f"transformer.norm.{kind}", state[f"{at}ln_f.{kind}"]


def to_hugging_face(state: Mapping[str, Tensor], config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """The inverse of `from_hugging_face`: names of `GPT2LMHeadModel`, whose head is the embedding; padding rows
    dropped."""
    yield "transformer.wte.weight", state["transformer.embeddings.token.weight"][: config.vocab]
    yield "transformer.wpe.weight", state["transformer.embeddings.position.weight"]
    for layer in range(config.layers):
        for ours, theirs in _BLOCK.items():
            for kind in ("weight", "bias"):
                tensor = state[f"transformer.blocks.{layer}.{ours}.{kind}"]
                if ours == "attention.qkv":
                    tensor = torch.cat(names.split_heads(tensor, config.heads))
                tensor = tensor.t().contiguous() if tensor.ndim == 2 else tensor
                yield f"transformer.h.{layer}.{theirs}.{kind}", tensor
    for kind in ("weight", "bias"):
        yield f"transformer.ln_f.{kind}", state[f"transformer.norm.{kind}"]
