"""An encoder of another kind than BERT, from outside: `model.family=tests.strangers.encoders:Around`."""

from collections.abc import Mapping

from phalanx.config import ModelConfig
from phalanx.models.family import Preset
from phalanx.models.gpt2 import decoder_of
from phalanx.spec.leaves import Dim, Matrix, Norm, Table
from phalanx.spec.model import MLP, Attention, Block, Embeddings, Head, Spec
from phalanx.spec.rope import Rope


class AroundConfig(ModelConfig):
    """What the network is: a toy encoder."""

    family: str = "tests.strangers.encoders:Around"

    def spec(self) -> Spec:
        """Return an encoder with rotary positions, RMS norms and gated layers, whose one head fills masks."""
        embed, width = Dim("embed", self.hidden), self.hidden // self.heads
        norm = Norm(embed, self.norm_eps, "rms", bias=False)
        embeddings = Embeddings(Table(Dim("vocab", self.vocab, padded=self.padded_vocab), embed))
        attention = Attention(self.hidden, self.heads, self.heads, width, causal=False, rope=Rope(1e4, width))
        block = Block(norm, attention, norm, MLP(self.hidden, self.ffn, "silu", gated=True))
        chain = (
            ("transform", Matrix(embed, embed, per="label")),
            ("norm", norm),
            ("decoder", decoder_of(self, bias=True)),
        )
        head = Head("mlm", tuple((f"masked.{name}", leaf) for name, leaf in chain), "gelu")
        return Spec(self.hidden, self.positions, embeddings, (block,) * self.layers, norm, (head,))


class Around:
    """An encoder from outside."""

    TASK = "mlm"
    Config = AroundConfig
    PRESETS: Mapping[str, Preset] = {}
