"""GPT-2: causal, learned positions, biases everywhere, its head tied to the embedding."""

from collections.abc import Mapping
from typing import Any, Literal

from phalanx.config import ModelConfig
from phalanx.models.family import Preset, sized
from phalanx.models.hugging_face import ABSOLUTE, Facts, HuggingFace, gelu_of, name_of
from phalanx.registry import TOKENIZERS
from phalanx.spec.compare import differences
from phalanx.spec.leaves import Dim, Matrix, Norm, Table
from phalanx.spec.links import Foreign, Names
from phalanx.spec.model import MLP, WORDS, Activation, Attention, Block, Embeddings, Head, Spec


class StackConfig(ModelConfig):
    """The network: the keys that GPT-2 and BERT share."""

    norm_first: bool = True
    """Layer norm before each sub-layer (pre-LN) or after the residual sum (post-LN, as Google's BERT)."""
    gelu: Literal["tanh", "erf"] = "tanh"
    """Form of the GELU: GPT-2's tanh or BERT's exact erf."""


class GPT2Config(StackConfig):
    """The network: a GPT-2."""

    family: str = "gpt2"

    @property
    def usual_vocab(self) -> int:
        """Tokens of GPT-2's tokenizer."""
        return TOKENIZERS["gpt2"]

    def spec(self) -> Spec:
        """Return a decoder with learned positions and a head tied to the embedding."""
        return stack(self, causal=True, heads=(Head("lm", (("head", decoder_of(self, bias=False)),)),))


_NAMES = Names(
    block="transformer.h.{}.",
    blocks={
        "norm1": "ln_1",
        "attention.qkv": Foreign("attn.c_attn", transposed=True),
        "attention.out": Foreign("attn.c_proj", transposed=True),
        "norm2": "ln_2",
        "feed_forward.up": Foreign("mlp.c_fc", transposed=True),
        "feed_forward.down": Foreign("mlp.c_proj", transposed=True),
    },
    once={
        "transformer.embeddings.token": "transformer.wte",
        "transformer.embeddings.position": "transformer.wpe",
        "transformer.norm": "transformer.ln_f",
    },
    heads={"lm": {"head": "lm_head"}},
    stem="transformer.",
    buffers=(".attn.bias", ".attn.masked_bias"),
)
_KEYS = {
    "vocab": "vocab_size", "positions": "n_positions", "hidden": "n_embd", "layers": "n_layer", "heads": "n_head",
    "ffn": "n_inner", "norm_eps": "layer_norm_epsilon", "dropout": "resid_pdrop", "attention_dropout": "attn_pdrop",
    "init_std": "initializer_range",
}  # fmt: skip


def _read(facts: Facts) -> dict[str, Any]:
    return {"gelu": gelu_of(facts, "activation_function", "gelu_new")}


def _write(model: GPT2Config) -> dict[str, Any]:
    return {"n_inner": model.ffn, "activation_function": name_of(model.gelu), "embd_pdrop": model.dropout}


def _why_not(model: GPT2Config) -> str:
    return "" if model.norm_first else "is post-LN (model.norm_first=false), which Hugging Face's GPT-2 is without"


class GPT2:
    """GPT-2, with OpenAI's four sizes and those of the Megatron paper (arXiv 1909.08053, table 1)."""

    TASK = "clm"
    Config = GPT2Config
    PRESETS: Mapping[str, Preset] = {
        "124m": sized(12, 768, 12),
        "355m": sized(24, 1024, 16),
        "774m": sized(36, 1280, 20),
        "1.5b": sized(48, 1600, 25),
        "1.2b": sized(40, 1536, 16),
        "2.5b": sized(54, 1920, 20),
        "4.2b": sized(64, 2304, 24),
        "8.3b": sized(72, 3072, 32),
    }
    HUGGING_FACE: Mapping[str, HuggingFace] = {
        "gpt2": HuggingFace(_NAMES, "GPT2LMHeadModel", _KEYS, _read, _write, ABSOLUTE, _why_not)
    }


def stack(model: StackConfig, causal: bool, heads: tuple[Head, ...], segments: int = 0, offset: int = 0) -> Spec:
    """Return the transformer that GPT-2 and BERT share, before or behind its norms, with biases everywhere."""
    hidden, norm, std, stds = Dim("embed", model.hidden), norm_of(model), model.init_std, model.stds
    position = Table(Dim("position", offset + model.positions), hidden, std)
    segment = Table(Dim("segment", segments), hidden, std) if segments else None
    first, last = (None, norm) if model.norm_first else (norm, None)
    embeddings = Embeddings(Table(words_of(model), hidden, std), position, segment, first, model.dropout, 1.0, offset)

    width, drop = model.hidden // model.heads, model.attention_dropout
    attention = Attention(model.hidden, model.heads, model.heads, width, causal, drop=drop, stds=stds)
    mlp = MLP(model.hidden, model.ffn, activation_of(model), stds=stds)
    block = Block(norm, attention, norm, mlp, model.norm_first, model.dropout)
    return Spec(model.hidden, model.positions, embeddings, (block,) * model.layers, last, heads)


def norm_of(model: ModelConfig) -> Norm:
    """Return the model's layer norm over the residual stream."""
    return Norm(Dim("embed", model.hidden), model.norm_eps)


def activation_of(model: StackConfig) -> Activation:
    """Return the form of the model's GELU."""
    return "gelu_tanh" if model.gelu == "tanh" else "gelu"


def words_of(model: ModelConfig) -> Dim:
    """Return the model's vocabulary, padded to the same rows on every layout."""
    return Dim("vocab", model.vocab, padded=model.padded_vocab)


def decoder_of(model: ModelConfig, bias: bool) -> Matrix:
    """Return the product with the embedding's own weight."""
    return Matrix(Dim("embed", model.hidden), words_of(model), bias, model.init_std, per="label", tied=WORDS)


def unlike(spec: Spec) -> str:
    """Return the first difference of a model from a GPT-2 or a BERT of the same sizes; "" if there is none.

    Kernels that know these alone ask it.
    """
    if spec.embeddings and spec.embeddings.position is None:
        return "embeddings.position is None, not Table"
    for head in spec.heads:
        for path, matrix in head.matrices():
            if matrix.outputs.axis == "vocab" and not matrix.tied:
                return f"{path} is not tied to the embedding"
    if len(kinds := set(spec.blocks)) > 1:
        return f"blocks are of {len(kinds)} kinds, not of one"

    return next((difference for block in kinds for difference in differences(block, _usual(block, spec))), "")


def _usual(block: Block, spec: Spec) -> Block:
    """Return a block of GPT-2 or BERT with the sizes, rates and deviations of another."""
    eps = block.norm1.eps if block.norm1 else 1e-5
    norm, attention, mlp = Norm(Dim("embed", spec.hidden), eps), block.attention, block.feed_forward
    heads = attention.heads
    width, exact = spec.hidden // heads, mlp.activation == "gelu"
    return Block(
        norm,
        Attention(spec.hidden, heads, heads, width, spec.causal, drop=attention.drop, stds=attention.stds),
        norm,
        MLP(spec.hidden, mlp.width, "gelu" if exact else "gelu_tanh", stds=mlp.stds),
        block.norm_first,
        block.drop,
    )
