"""A model family as another package would bring it: `model.family=tests.strangers.families:Toy`."""

from collections.abc import Mapping
from typing import Literal

from phalanx.config import ModelConfig
from phalanx.models.family import Preset
from phalanx.models.hugging_face import Facts, HuggingFace
from phalanx.section import Size
from phalanx.spec.leaves import Dim, Matrix, Norm, Table
from phalanx.spec.links import Names
from phalanx.spec.model import MLP, Attention, Block, Embeddings, Head, Spec


class ToyConfig(ModelConfig):
    """What the network is: a toy."""

    family: str = "tests.strangers.families:Toy"
    kv_heads: Size = 2
    """Heads of keys and values; must divide heads."""
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
        head = Head("lm", (("head", Matrix(embed, words, per="label")),))
        return Spec(self.hidden, self.positions, embeddings, (block,) * self.layers, norm, (head,))


NAMES = Names(
    block="layers.{}.",
    blocks={
        "norm1": "mixer_norm",
        "attention.qkv": "mixer.{q,k,v}",
        "attention.out": "mixer.out",
        "norm2": "mlp_norm",
        "feed_forward.up": "mlp.{gate,up}",
        "feed_forward.down": "mlp.down",
    },
    once={
        "transformer.embeddings.token": "words",
        "transformer.embeddings.position": "places",
        "transformer.norm": "last_norm",
    },
    heads={"lm": {"head": "decoder"}},
)
KEYS = {
    "vocab": "vocab_size", "positions": "max_position", "hidden": "width", "layers": "depth", "heads": "heads",
    "kv_heads": "kv_heads", "ffn": "mlp_width", "norm_eps": "epsilon", "dropout": "dropout",
}  # fmt: skip


def read(facts: Facts) -> dict[str, str]:
    """Return the keys of [model] that config.json does not have by itself: here all models are gated."""
    return {"shape": "gated"}


def write(model: ToyConfig) -> dict[str, object]:
    """Return the facts of config.json that no key of [model] has."""
    return {"activation": "silu"}


def why_not(model: ToyConfig) -> str:
    """Return why a model has no name there."""
    return "" if model.shape == "gated" else "has no gate (model.shape=plain), which toys there have"


class Toy:
    """One size, and what it is pretrained by."""

    TASK = "clm"
    Config = ToyConfig
    PRESETS: Mapping[str, Preset] = {"mini": {"layers": 2, "hidden": 48, "heads": 4}}
    HUGGING_FACE: Mapping[str, HuggingFace] = {
        "toy": HuggingFace(NAMES, "ToyForCausalLM", KEYS, read, write, {"activation": "silu"}, why_not)
    }
