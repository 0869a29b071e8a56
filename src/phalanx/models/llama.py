"""Llama (arXiv 2307.09288, 2407.21783) and its kind: root-mean-square norms, rotary positions, grouped queries, gates.

Mistral (arXiv 2310.06825), TinyLlama, SmolLM2 and Qwen2 (arXiv 2407.10671) are such models too.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, PositiveFloat, model_validator

from phalanx.config import ModelConfig
from phalanx.errors import InputError
from phalanx.models.family import Section
from phalanx.models.llama_hugging_face import HUGGING_FACE
from phalanx.section import Fraction
from phalanx.spec.leaves import Dim, Matrix, Norm, Table
from phalanx.spec.model import MLP, WORDS, Attention, Block, Embeddings, Head, Spec
from phalanx.spec.rope import Rope

Count = Annotated[int, Field(ge=0, le=1 << 24)]


class LlamaConfig(ModelConfig):
    """What the network is: a Llama."""

    family: str = "llama"
    dropout: Fraction = 0.0
    kv_heads: Count = 0
    """Heads of keys and values, each for a group of queries; must divide heads. 0 means as many as heads."""
    width: Count = 0
    """Width of a head, even; 0 means hidden / heads."""
    theta: PositiveFloat = 10_000.0
    """Base of the rotary positions' frequencies."""
    tied: bool = False
    """Whether the head multiplies by the embedding's own weight."""
    qkv_bias: bool = False
    """Whether queries, keys and values have biases (Qwen2)."""

    @property
    def default_ffn(self) -> int:
        """Two thirds of four times hidden, rounded up to a multiple of 256, as Llama's are."""
        return -(-8 * self.hidden // (3 * 256)) * 256

    @model_validator(mode="after")
    def _definite_heads(self) -> Self:
        """Give `kv_heads` and `width` their values, so that nobody after this asks what 0 means."""
        if not self.kv_heads:
            object.__setattr__(self, "kv_heads", self.heads)
        if not self.width and self.hidden % self.heads == 0:
            object.__setattr__(self, "width", self.hidden // self.heads)
        return self

    def check(self) -> None:
        """Raise InputError for sizes that no Llama can have."""
        if self.heads % self.kv_heads:
            fits = ", ".join(str(n) for n in range(1, self.heads + 1) if self.heads % n == 0)
            raise InputError(
                f"model.kv_heads={self.kv_heads} does not divide model.heads={self.heads}; use one of {fits}"
            )
        if not self.width:
            super().check()  # heads do not divide hidden, and nothing says how wide they are
        if self.width % 2:
            raise InputError(f"model.width={self.width} is not even: rotary positions turn pairs of numbers of a head")

    def spec(self) -> Spec:
        """Return the decoder, its head tied to the embedding or not."""
        embed, norm = Dim("embed", self.hidden), Norm(Dim("embed", self.hidden), self.norm_eps, "rms")
        words = Dim("vocab", self.vocab, padded=self.padded_vocab)
        stds = self.init_std, self.init_std / math.sqrt(2 * self.layers)
        attention = Attention(
            self.hidden, self.heads, self.kv_heads, self.width, causal=True, bias=(self.qkv_bias, False),
            rope=Rope(self.theta, self.width), drop=self.attention_dropout, stds=stds,
        )  # fmt: skip
        mlp = MLP(self.hidden, self.ffn, "silu", gated=True, bias=False, stds=stds)
        block = Block(norm, attention, norm, mlp, drop=self.dropout)
        head = Matrix(embed, words, False, self.init_std, per="label", tied=WORDS if self.tied else "")
        embeddings = Embeddings(Table(words, embed, self.init_std), drop=self.dropout)
        return Spec(
            self.hidden, self.positions, embeddings, (block,) * self.layers, norm, (Head("lm", (("head", head),)),)
        )


class Llama:
    """Sizes as their makers published them."""

    TASK = "clm"
    Config = LlamaConfig
    HUGGING_FACE = HUGGING_FACE
    PRESETS: Mapping[str, Section] = {
        "2-7b": {"layers": 32, "hidden": 4096, "heads": 32, "ffn": 11008, "positions": 4096},
        "2-70b": {"layers": 80, "hidden": 8192, "heads": 64, "kv_heads": 8, "ffn": 28672, "positions": 4096},
        "3-8b": {
            "layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "ffn": 14336, "positions": 8192, "theta": 5e5,
        },
        "tinyllama-1.1b": {
            "layers": 22, "hidden": 2048, "heads": 32, "kv_heads": 4, "ffn": 5632, "positions": 2048,
        },
        "smollm2-135m": {
            "layers": 30, "hidden": 576, "heads": 9, "kv_heads": 3, "ffn": 1536, "positions": 8192, "theta": 1e5,
            "tied": True,
        },
        "mistral-7b": {
            "layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "ffn": 14336, "positions": 32768, "theta": 1e6,
        },
        "qwen2-0.5b": {
            "layers": 24, "hidden": 896, "heads": 14, "kv_heads": 2, "ffn": 4864, "positions": 32768, "theta": 1e6,
            "norm_eps": 1e-6, "tied": True, "qkv_bias": True,
        },
    }  # fmt: skip
