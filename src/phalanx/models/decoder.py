"""What Llama and later decoders have in common: root-mean-square norms, rotary positions, grouped queries, gates.

A family of these is a subclass of `DecoderConfig`, which has the keys of all and makes the description; it says in
`attention`, `block` or `rope` where it differs.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, PositiveFloat, model_validator

from phalanx.config import ModelConfig
from phalanx.errors import InputError
from phalanx.models.family import Preset
from phalanx.section import Fraction, Share
from phalanx.spec.leaves import Dim, Matrix, Norm, Table
from phalanx.spec.model import MLP, WORDS, Activation, Attention, Block, Embeddings, Head, Spec
from phalanx.spec.rope import BOUNDS, Rope, yarn_magnitude

Count = Annotated[int, Field(ge=0, le=1 << 24)]


class Kind(NamedTuple):
    """A kind of layer: whether it has the window, and whether it turns queries and keys by their positions."""

    windowed: bool
    rotary: bool


class DecoderConfig(ModelConfig):
    """The network: a decoder."""

    dropout: Fraction = 0.0
    kv_heads: Count = 0
    """Heads of keys and values, each for a group of queries; must divide heads. 0 means as many as heads."""
    width: Count = 0
    """Width of a head, even; 0 means hidden / heads."""
    theta: PositiveFloat = 10_000.0
    """Base of the rotary positions' frequencies."""
    tied: bool = False
    """Whether the head multiplies by the embedding's own weight."""
    window: Count = 0
    """Positions that a query sees in the layers of window_layers: its own and those before it; 0 means all."""
    window_layers: str = "1"
    """The layers with the window: 1 or 0 for each, repeated over all layers. 1110 leaves out each fourth."""
    rope_layers: str = "1"
    """The layers that turn queries and keys by their positions, in the same form."""
    rope_scaling: Literal["none", "linear", "llama3", "yarn"] = "none"
    """How rotary frequencies are scaled for longer texts; the other rope_ keys are those of config.json."""
    rope_factor: PositiveFloat = 1.0
    """By what scaled frequencies are divided."""
    rope_original: Count = 0
    """Positions before scaling (llama3, yarn)."""
    rope_low: Share = 0.0
    """Periods in the original positions up to which a frequency is scaled; 0 takes 1 (low_freq_factor, beta_slow)."""
    rope_high: Share = 0.0
    """Periods from which it is not; 0 takes 4 for llama3, 32 for yarn (high_freq_factor, beta_fast)."""
    rope_magnitude: Share = 0.0
    """By what cosines and sines are multiplied (attention_factor); 0 takes 0.1 ln(factor) + 1 for yarn, else 1."""

    @property
    def default_ffn(self) -> int:
        """Two thirds of four times hidden, rounded up to a multiple of 256, as Llama's are."""
        return -(-8 * self.hidden // (3 * 256)) * 256

    @property
    def usual_vocab(self) -> int:
        """Tokens of the vocabulary that the preset's models have."""
        return self._vocabularies().get(self.preset, next(iter(self._vocabularies().values()), 0))

    def _vocabularies(self) -> dict[str, int]:
        """Return the vocabularies of presets; the first is that of a model without a preset."""
        return {}

    @model_validator(mode="after")
    def _definite_sizes(self) -> Self:
        """Give keys their values where 0 says that they follow from others, so that nobody after this asks what."""
        if not self.kv_heads:
            object.__setattr__(self, "kv_heads", self.heads)
        if not self.width and self.hidden % self.heads == 0:
            object.__setattr__(self, "width", self.hidden // self.heads)

        for key, value in zip(("rope_low", "rope_high"), BOUNDS.get(self.rope_scaling, (0.0, 0.0)), strict=True):
            if not getattr(self, key):
                object.__setattr__(self, key, value)
        if not self.rope_magnitude:
            usual = yarn_magnitude(self.rope_factor) if self.rope_scaling == "yarn" else 1.0
            object.__setattr__(self, "rope_magnitude", usual)
        return self

    def check(self) -> None:
        """Raise InputError for sizes that no such decoder can have."""
        if self.heads % self.kv_heads:
            fits = ", ".join(str(n) for n in range(1, self.heads + 1) if self.heads % n == 0)
            raise InputError(
                f"model.kv_heads={self.kv_heads} does not divide model.heads={self.heads}; use one of {fits}"
            )
        if not self.width:
            super().check()  # heads do not divide hidden, and nothing says how wide they are
        if self.width % 2:
            raise InputError(f"model.width={self.width} is not even: rotary positions turn pairs of numbers of a head")
        for key in ("window_layers", "rope_layers"):
            if not (pattern := getattr(self, key)) or {*pattern} - {"0", "1"}:
                raise InputError(f"model.{key}={pattern} will not do; it takes a 1 or a 0 for each layer, as 1110")
        if self.rope_scaling in BOUNDS and not self.rope_original:
            raise InputError(f"model.rope_scaling={self.rope_scaling} needs model.rope_original, the positions before")
        if self.rope_scaling == "yarn" and self.theta == 1:
            raise InputError("model.theta=1 gives no frequencies that differ, by which model.rope_scaling=yarn goes")
        if self.rope_scaling in BOUNDS and self.rope_low >= self.rope_high:
            raise InputError(f"model.rope_low={self.rope_low:g} is not less than model.rope_high={self.rope_high:g}")

    def spec(self) -> Spec:
        """Return the decoder, its head tied to the embedding or not."""
        embed, words = Dim("embed", self.hidden), Dim("vocab", self.vocab, padded=self.padded_vocab)
        kinds = [*self.kinds()]
        blocks = {kind: self.block(kind) for kind in {*kinds}}
        head = Matrix(embed, words, False, self.head_std, per="label", tied=WORDS if self.tied else "")
        embeddings = Embeddings(Table(words, embed, self.init_std), drop=self.dropout, scale=self.embedding_scale)
        return Spec(
            self.hidden, self.positions, embeddings, tuple(map(blocks.__getitem__, kinds)), self.norm(),
            (Head("lm", (("head", head),)),),
        )  # fmt: skip

    def kinds(self) -> Iterator[Kind]:
        """Yield the kind of each layer, from the first to the last."""
        windows, ropes = self.window_layers if self.window else "0", self.rope_layers
        for number in range(self.layers):
            yield Kind(windows[number % len(windows)] == "1", ropes[number % len(ropes)] == "1")

    @property
    def embedding_scale(self) -> float:
        """Factor by which a token's row of the embedding is multiplied."""
        return 1.0

    def norm(self) -> Norm:
        """Return a norm of the residual stream."""
        return Norm(Dim("embed", self.hidden), self.norm_eps, "rms")

    def rope(self, kind: Kind) -> Rope | None:
        """Return the rotary positions of a layer."""
        return self.scaled_rope() if kind.rotary else None

    def scaled_rope(self) -> Rope:
        """Return rotary positions as the keys theta and rope_ say."""
        if self.rope_scaling == "none":
            return Rope(self.theta, self.width)
        return Rope(
            self.theta, self.width, self.rope_scaling, self.rope_factor, self.rope_original, self.rope_low,
            self.rope_high, magnitude=self.rope_magnitude,
        )  # fmt: skip

    def attention(self, kind: Kind) -> Attention:
        """Return the attention of a layer."""
        return Attention(
            self.hidden, self.heads, self.kv_heads, self.width, causal=True, bias=(False, False), rope=self.rope(kind),
            drop=self.attention_dropout, stds=self.stds, window=self.window if kind.windowed else 0,
        )  # fmt: skip

    def mlp(self, activation: Activation = "silu") -> MLP:
        """Return the feed-forward layer."""
        return MLP(self.hidden, self.ffn, activation, gated=True, bias=False, stds=self.stds)

    def block(self, kind: Kind) -> Block:
        """Return a layer: with norms before attention and before the feed-forward layer."""
        return Block(self.norm(), self.attention(kind), self.norm(), self.mlp(), drop=self.dropout)


def grouped(layers: int, hidden: int, heads: int, kv_heads: int, ffn: int, **others: Any) -> Preset:
    """Return the keys of a preset: the size of a decoder with grouped queries, and others."""
    return {"layers": layers, "hidden": hidden, "heads": heads, "kv_heads": kv_heads, "ffn": ffn, **others}
