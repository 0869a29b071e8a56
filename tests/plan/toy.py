"""A family from outside the package, unlike GPT-2 and BERT: two key heads for eight, heads of a width of their own, rms
norms without biases, rotary positions, a gate, a head of its own over the vocabulary; blocks of two kinds.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from phalanx.config import ModelConfig
from phalanx.spec.leaves import Dim, Matrix, Norm, Table
from phalanx.spec.model import MLP, WORDS, Attention, Block, Embeddings, Head, Spec
from phalanx.spec.rope import Rope


class ToyConfig(ModelConfig):
    """What the network is: a toy."""

    family: str = "tests.plan.toy:Toy"
    kv_heads: int = 2
    """Key heads."""
    head_width: int = 96
    """Width of a head."""
    tied: bool = False
    """Whether the head multiplies by the embedding's weight."""
    rotary: bool = True
    """Whether queries and keys are turned by their positions."""
    window: int = 0
    """Positions that a query of the blocks but the last sees; 0 means all."""
    wider: int = 0
    """How much wider the feed-forward layer of the last block is."""

    @property
    def usual_vocab(self) -> int:
        """Tokens of GPT-2's tokenizer."""
        return 50_257

    def spec(self) -> Spec:
        """Return its description."""
        embed, norm = Dim("embed", self.hidden), Norm(Dim("embed", self.hidden), self.norm_eps, "rms", bias=False)
        words = Dim("vocab", self.vocab, padded=self.padded_vocab)
        rope = Rope(1e4, self.head_width) if self.rotary else None
        attention = Attention(
            self.hidden, self.heads, self.kv_heads, self.head_width, causal=True, bias=(False, False), rope=rope
        )
        block, last = (
            Block(norm, attention, norm, MLP(self.hidden, width, "silu", gated=True, bias=False), drop=self.dropout)
            for width in (self.ffn, self.ffn + self.wider)
        )
        block = replace(block, attention=replace(attention, window=self.window))
        decoder = Matrix(embed, words, bias=False, per="label", tied=WORDS if self.tied else "")
        embeddings = Embeddings(Table(words, embed), drop=self.dropout)
        blocks = (*[block] * (self.layers - 1), last)
        return Spec(self.hidden, self.positions, embeddings, blocks, norm, (Head("lm", (("head", decoder),)),))


class Toy:
    """The family."""

    TASK = "clm"
    Config = ToyConfig
    PRESETS: Mapping[str, Any] = {}
