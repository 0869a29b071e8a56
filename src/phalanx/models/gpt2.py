"""GPT-2: causal, its head tied to the embedding; from and to Hugging Face's names."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from phalanx.config import ModelConfig
from phalanx.models import names, sizes
from phalanx.nn.batch import Batch
from phalanx.nn.heads import VocabularyHead
from phalanx.nn.transformer import Transformer


class GPT2(sizes.GPT2, nn.Module):
    """Decoder-only transformer, pre-LN, learned positions, head tied to the embedding."""

    LOSSES = ("lm",)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.transformer = Transformer(config, causal=True)
        self.head: VocabularyHead | None = VocabularyHead(config.vocab, bias=False)

    def forward(self, batch: Batch, x: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        """Logits [batch, seq, vocab], or with labels the sums lm and, where no gradient is wanted, lm_correct."""
        hidden: Tensor = self.transformer(batch, x)
        if self.head is None:  # a pipeline's stage before the last
            return hidden
        weight = self.transformer.words
        if batch.labels is None:
            logits: Tensor = self.head(hidden, weight)
            return logits
        return self.head.sums("lm", hidden, weight, batch.labels)

    @staticmethod
    def parameters_of(config: ModelConfig) -> int:
        """Weights by the closed form, checked against built models in the tests."""
        layers, hidden, ffn = config.layers, config.hidden, config.ffn or 4 * config.hidden
        block = 4 * hidden * hidden + 2 * hidden * ffn + 9 * hidden + ffn
        return layers * block + (config.vocab + config.positions + 2) * hidden

    @staticmethod
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

    @staticmethod
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


_BLOCK = {
    "norm1": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "norm2": "ln_2",
    "feed_forward.up": "mlp.c_fc",
    "feed_forward.down": "mlp.c_proj",
}
