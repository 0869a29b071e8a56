"""A model family as another package would bring it: `model.family=tests.strangers.families:Toy`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from phalanx.config import ModelConfig
from phalanx.models.family import Preset
from phalanx.section import Size
from phalanx.spec.leaves import Dim, Matrix, Norm, Table
from phalanx.spec.model import MLP, Attention, Block, Embeddings, Head, Spec


class ToyConfig(ModelConfig):
    """What the network is: a toy."""

    family: str = "tests.strangers.families:Toy"
    kv_heads: Size = 2
    """Heads of keys and values; must divide heads."""
    window: int = 0
    """Positions that a query of every second block sees, its own included; 0 means all."""
    shape: Literal["plain", "gated"] = "gated"
    """Feed-forward layers: one product up, or one more that gates it."""

    @property
    def default_ffn(self) -> int:
        """Width of the feed-forward layer where no key says it."""
        return 3 * self.hidden

    def spec(self) -> Spec:
        """Return a decoder of RMS norms and SiLU with learned positions, and a head of its own with a bias."""
        embed, words = Dim("embed", self.hidden), Dim("vocab", self.vocab, padded=self.padded_vocab)
        norm = Norm(embed, self.norm_eps, "rms", bias=False)
        embeddings = Embeddings(Table(words, embed), Table(Dim("position", self.positions), embed), drop=self.dropout)
        attention = Attention(self.hidden, self.heads, self.kv_heads, self.hidden // self.heads, causal=True)
        mlp = MLP(self.hidden, self.ffn, "silu", self.shape == "gated", bias=False)
        block = Block(norm, attention, norm, mlp, drop=self.dropout)
        other = replace(block, attention=replace(attention, window=self.window))
        head = Head("lm", (("head", Matrix(embed, words, per="label")),))
        return Spec(
            self.hidden, self.positions, embeddings, ((other, block) * self.layers)[: self.layers], norm, (head,)
        )


class Toy:
    """One size, and what it is pretrained by."""

    TASK = "clm"
    Config = ToyConfig
    PRESETS: Mapping[str, Preset] = {"mini": {"layers": 2, "hidden": 48, "heads": 4}}
