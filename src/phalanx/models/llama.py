"""Llama (arXiv 2307.09288, 2407.21783) and its kind: root-mean-square norms, rotary positions, grouped queries, gates.

Mistral (arXiv 2310.06825), TinyLlama, SmolLM2 and Qwen2 (arXiv 2407.10671) are such models too.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, PositiveFloat, model_validator

from phalanx.config import ModelConfig
from phalanx.errors import InputError
from phalanx.foreign import short
from phalanx.models.family import Preset
from phalanx.models.hugging_face import Facts, HuggingFace
from phalanx.section import Fraction
from phalanx.spec.leaves import Dim, Matrix, Norm, Table
from phalanx.spec.links import Names
from phalanx.spec.model import MLP, WORDS, Attention, Block, Embeddings, Head, Spec
from phalanx.spec.rope import Rope

Count = Annotated[int, Field(ge=0, le=1 << 24)]
VOCABULARIES = {
    "3-8b": 128_256, "3-70b": 128_256, "smollm2-135m": 49_152, "mistral-7b": 32_768, "qwen2-0.5b": 151_936,
}  # fmt: skip


class LlamaConfig(ModelConfig):
    """The network: a Llama."""

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

    @property
    def usual_vocab(self) -> int:
        """Tokens of the vocabulary that the preset's models have; without one, Llama 2's."""
        return VOCABULARIES.get(self.preset, 32_000)

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
        attention = Attention(
            self.hidden, self.heads, self.kv_heads, self.width, causal=True, bias=(self.qkv_bias, False),
            rope=Rope(self.theta, self.width), drop=self.attention_dropout, stds=self.stds,
        )  # fmt: skip
        mlp = MLP(self.hidden, self.ffn, "silu", gated=True, bias=False, stds=self.stds)
        block = Block(norm, attention, norm, mlp, drop=self.dropout)
        head = Matrix(embed, words, False, self.head_std, per="label", tied=WORDS if self.tied else "")
        embeddings = Embeddings(Table(words, embed, self.init_std), drop=self.dropout)
        return Spec(
            self.hidden, self.positions, embeddings, (block,) * self.layers, norm, (Head("lm", (("head", head),)),)
        )


_NAMES = Names(
    block="model.layers.{}.",
    blocks={
        "norm1": "input_layernorm",
        "attention.qkv": "self_attn.{q,k,v}_proj",
        "attention.out": "self_attn.o_proj",
        "norm2": "post_attention_layernorm",
        "feed_forward.up": "mlp.{gate,up}_proj",
        "feed_forward.down": "mlp.down_proj",
    },
    once={"transformer.embeddings.token": "model.embed_tokens", "transformer.norm": "model.norm"},
    heads={"lm": {"head": "lm_head"}},
    stem="model.",
    buffers=(".rotary_emb.inv_freq",),
)
_KEYS = {
    "vocab": "vocab_size", "positions": "max_position_embeddings", "hidden": "hidden_size",
    "layers": "num_hidden_layers", "heads": "num_attention_heads", "kv_heads": "num_key_value_heads",
    "width": "head_dim", "ffn": "intermediate_size", "norm_eps": "rms_norm_eps", "theta": "rope_theta",
    "tied": "tie_word_embeddings", "attention_dropout": "attention_dropout", "init_std": "initializer_range",
}  # fmt: skip
_ABSENT = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "attention_dropout": 0.0, "initializer_range": 0.02}
_LLAMA = {**_ABSENT, "intermediate_size": 11008, "max_position_embeddings": 2048}  # by their classes
_MISTRAL = {
    **_ABSENT, "intermediate_size": 14336, "max_position_embeddings": 131_072, "num_key_value_heads": 8,
    "sliding_window": 4096,
}  # fmt: skip
_QWEN2 = {**_ABSENT, "intermediate_size": 22016, "max_position_embeddings": 32_768, "num_key_value_heads": 32}
_USUAL = {"hidden_act": "silu", "partial_rotary_factor": 1.0, "quantization_config": None}


def _read_llama(facts: Facts) -> dict[str, Any]:
    return _section({**_LLAMA, **facts}, qkv_bias=False)


def _read_mistral(facts: Facts) -> dict[str, Any]:
    facts = {**_MISTRAL, **facts}
    _refuse_window(facts)
    return _section(facts, qkv_bias=False)


def _read_qwen2(facts: Facts) -> dict[str, Any]:
    """Return the keys of [model]. A window is used only where `use_sliding_window` says so, and there in the layers
    from `max_window_layers` on, or in those that `layer_types` names. InputError for a window that is used.
    """
    facts = {**_QWEN2, **facts}
    used = facts.get("use_sliding_window")
    if not isinstance(used, bool | None):
        raise InputError(f"use_sliding_window={short(used)} will not do: it is to be true or false")

    kinds = facts.get("layer_types")
    some = "sliding_attention" in kinds if isinstance(kinds, list) else True
    if used and some:
        _refuse_window(facts)
    return _section(facts, qkv_bias=True)


def _section(facts: Facts, qkv_bias: bool) -> dict[str, Any]:
    """Return the keys of [model]. Key heads that are null are as many as heads; a width that is null or absent is
    hidden / heads. InputError for others that are null.
    """
    for theirs in set(_KEYS.values()) - {"num_key_value_heads", "head_dim", "rope_theta"}:
        if theirs in facts and facts[theirs] is None:
            raise InputError(f"{theirs} is null, and a value is needed")

    section = {ours: facts[theirs] for ours, theirs in _KEYS.items() if facts.get(theirs) is not None}
    section |= {"qkv_bias": qkv_bias, "theta": _theta(facts)}
    heads, hidden = section.get("heads"), section.get("hidden")
    section.setdefault("kv_heads", heads)
    if type(heads) is int and type(hidden) is int and heads > 0:
        section.setdefault("width", hidden // heads)
    return section


def _theta(facts: Facts) -> Any:
    """Return the base of the rotary frequencies: of `rope_parameters`, or of older files' `rope_theta` and
    `rope_scaling`. InputError for frequencies that are scaled.
    """
    parameters: dict[str, Any] = {"rope_theta": facts.get("rope_theta", 10_000.0)}

    for key in ("rope_scaling", "rope_parameters"):
        section = facts.get(key)
        if section is None:
            continue
        if not isinstance(section, dict):
            raise InputError(f"{key}={short(section)} will not do: it is to be an object, or null")
        parameters |= section
        kind = section.get("rope_type") or section.get("type") or "default"
        if kind != "default":
            raise InputError(f"rotary positions of the type {short(kind)} (rope_type) are not known here; default is")

    for key, value in parameters.items():
        if isinstance(value, dict) or (key == "partial_rotary_factor" and value != 1):
            raise InputError(f"rotary positions with {short(key)}={short(value)} are not known here")
    return parameters["rope_theta"]


def _refuse_window(facts: Facts) -> None:
    """Raise InputError for a window of attention, unless it is as long as the longest text."""
    window, positions = facts.get("sliding_window"), facts["max_position_embeddings"]
    if window is None or (type(window) is int and type(positions) is int and window >= positions):
        return
    raise InputError(f"sliding_window={short(window)} is not known here: only attention to all that came before is")


def _write(model: Any) -> dict[str, Any]:
    """Return both forms of the rotary positions, for older and newer versions of transformers."""
    rope = {"rope_type": "default", "rope_theta": model.theta}
    return {"hidden_act": "silu", "rope_parameters": rope, "use_sliding_window": False, "sliding_window": None}


def _write_llama(model: Any) -> dict[str, Any]:
    return _write(model) | {"attention_bias": False, "mlp_bias": False}


def _why_not_llama(model: Any) -> str:
    return "has biases of q, k and v (model.qkv_bias), which Hugging Face's Llama is without" if model.qkv_bias else ""


def _why_not_qwen2(model: Any) -> str:
    return (
        "" if model.qkv_bias else "has no biases of q, k and v (model.qkv_bias=false), which Hugging Face's Qwen2 has"
    )


# What these keys describe goes out as a Llama, whatever it came in as.
HUGGING_FACE: Mapping[str, HuggingFace] = {
    "llama": HuggingFace(
        _NAMES, "LlamaForCausalLM", _KEYS, _read_llama, _write_llama,
        {**_USUAL, "attention_bias": False, "mlp_bias": False}, _why_not_llama,
    ),
    "mistral": HuggingFace(
        _NAMES, "MistralForCausalLM", _KEYS, _read_mistral, _write, _USUAL, _why_not_llama,
    ),
    "qwen2": HuggingFace(_NAMES, "Qwen2ForCausalLM", _KEYS, _read_qwen2, _write, _USUAL, _why_not_qwen2),
}  # fmt: skip


class Llama:
    """Llama and its kind, with sizes as their makers published them."""

    TASK = "clm"
    Config = LlamaConfig
    HUGGING_FACE = HUGGING_FACE
    PRESETS: Mapping[str, Preset] = {
        "2-7b": {"layers": 32, "hidden": 4096, "heads": 32, "ffn": 11008, "positions": 4096},
        "2-70b": {"layers": 80, "hidden": 8192, "heads": 64, "kv_heads": 8, "ffn": 28672, "positions": 4096},
        "3-8b": {
            "layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "ffn": 14336, "positions": 8192, "theta": 5e5,
        },
        "3-70b": {
            "layers": 80, "hidden": 8192, "heads": 64, "kv_heads": 8, "ffn": 28672, "positions": 8192, "theta": 5e5,
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
