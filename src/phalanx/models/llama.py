"""Llama (arXiv 2307.09288, 2407.21783) and its kind: root-mean-square norms, rotary positions, grouped queries, gates.

Mistral (arXiv 2310.06825), TinyLlama, SmolLM2 and 3 (arXiv 2502.02737), Qwen2 and 2.5 (arXiv 2407.10671, 2412.15115)
are such models too.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from phalanx.errors import InputError
from phalanx.foreign import short
from phalanx.models import decoder_facts
from phalanx.models.decoder import DecoderConfig, Kind, grouped
from phalanx.models.decoder_facts import ABSENT, KEYS, USUAL
from phalanx.models.family import Preset
from phalanx.models.hugging_face import FULL, SLIDING, Facts, HuggingFace
from phalanx.spec.model import Attention

LLAMA2, LLAMA3, QWEN2 = 32_000, 128_256, 151_936
VOCABULARIES = {
    "2-7b": LLAMA2, "mistral-7b": 32_768, "mistral-nemo-12b": 131_072,
    "qwen2.5-7b": 152_064, **{f"qwen{size}": QWEN2 for size in ("2-0.5b", "2.5-0.5b", "2.5-1.5b", "2.5-3b")},
    **{f"3{size}": LLAMA3 for size in ("-8b", "-70b", ".1-8b", ".1-70b", ".1-405b", ".2-1b", ".2-3b")},
    **{f"smollm2-{size}": 49_152 for size in ("135m", "360m", "1.7b")}, "smollm3-3b": LLAMA3,
}  # fmt: skip


class LlamaConfig(DecoderConfig):
    """The network: a Llama."""

    family: str = "llama"
    qkv_bias: bool = False
    """Whether queries, keys and values have biases (Qwen2)."""

    def _vocabularies(self) -> dict[str, int]:
        return VOCABULARIES

    def attention(self, kind: Kind) -> Attention:
        """Return the attention of a layer."""
        return replace(super().attention(kind), bias=(self.qkv_bias, False))


_NAMES = decoder_facts.names(norm1="input_layernorm", norm2="post_attention_layernorm")
_LLAMA = {**ABSENT, "intermediate_size": 11008, "max_position_embeddings": 2048}  # by their classes
_MISTRAL = {
    **ABSENT, "intermediate_size": 14336, "max_position_embeddings": 131_072, "num_key_value_heads": 8,
    "sliding_window": 4096,
}  # fmt: skip
_QWEN2 = {
    **ABSENT, "intermediate_size": 22016, "max_position_embeddings": 32_768, "num_key_value_heads": 32,
    "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28,
}  # fmt: skip
_SMOLLM3 = {
    **ABSENT, "intermediate_size": 11008, "max_position_embeddings": 32_768, "num_key_value_heads": 4,
    "tie_word_embeddings": True, "use_sliding_window": False, "no_rope_layer_interval": 4,
}  # fmt: skip


def _read_llama(facts: Facts) -> dict[str, Any]:
    facts = {**_LLAMA, **facts}
    return decoder_facts.section(facts) | decoder_facts.rope(facts) | {"qkv_bias": False}


def _read_mistral(facts: Facts) -> dict[str, Any]:
    """Return the keys of [model]. Mistral's class has a window in all layers, whatever layer_types says."""
    facts = {**_MISTRAL, **facts}
    read = decoder_facts.section(facts) | decoder_facts.rope(facts) | {"qkv_bias": False}
    if facts["sliding_window"] is None:
        return read | {"window": 0, "window_layers": "1"}
    if isinstance(types := facts.get("layer_types"), list) and FULL in types:
        raise InputError(f"layer_types={short(types)} is not known of Mistral: its window is in all layers")
    return read | decoder_facts.windows({**facts, "layer_types": None}, lambda _: "1")


def _read_qwen2(facts: Facts) -> dict[str, Any]:
    facts = {**_QWEN2, **facts}
    return decoder_facts.section(facts) | decoder_facts.rope(facts) | qwen_windows(facts) | {"qkv_bias": True}


def qwen_windows(facts: Facts) -> dict[str, Any]:
    """Return the window of a Qwen. It is used only where `use_sliding_window` says so, and there in the layers from
    `max_window_layers` on, or in those that `layer_types` names.
    """
    used, first = facts.get("use_sliding_window"), facts.get("max_window_layers")
    if not isinstance(used, bool | None):
        raise InputError(f"use_sliding_window={short(used)} will not do: it is to be true or false")
    if not used:
        if SLIDING in (facts.get("layer_types") or ()):
            raise InputError(f"layer_types has {SLIDING}, and use_sliding_window is not true")
        return {"window": 0, "window_layers": "1"}
    if facts.get("layer_types") is None and type(first) is not int:
        raise InputError(f"max_window_layers={short(first)} will not do: it is to be a whole number")

    def rule(layers: int) -> str:
        assert isinstance(first, int)
        full = max(0, min(first, layers))
        return decoder_facts.shortest("0" * full + "1" * (layers - full))

    return decoder_facts.windows(facts, rule)


def _read_smollm3(facts: Facts) -> dict[str, Any]:
    """Return the keys of [model]. Layers without rotary positions are those with a 0 in `no_rope_layers`, or each
    `no_rope_layer_interval`th; a window, where it is used, is in these.
    """
    facts = {**_SMOLLM3, **facts}
    listed, interval, layers = (
        facts.get(key) for key in ("no_rope_layers", "no_rope_layer_interval", "num_hidden_layers")
    )
    if listed is None:
        if type(interval) is not int or not 1 <= interval <= 64:
            raise InputError(f"no_rope_layer_interval={short(interval)} will not do: it is to be a whole number")
        ropes = "1" * (interval - 1) + "0"
    else:
        if not isinstance(listed, list) or any(type(each) is not int or each not in (0, 1) for each in listed):
            raise InputError(f"no_rope_layers={short(listed)} will not do: it is to be a list of 1 and 0")
        if type(layers) is int and len(listed) < layers:
            raise InputError(f"no_rope_layers is to have a 1 or a 0 for each of {layers} layers, not {len(listed)}")
        ropes = decoder_facts.shortest("".join(map(str, listed[:layers] if type(layers) is int else listed)))

    section = decoder_facts.section(facts) | decoder_facts.rope(facts, 2_000_000.0)
    section |= {"qkv_bias": False, "rope_layers": ropes or "1", "window": 0, "window_layers": "1"}
    if facts.get("layer_types") is None and not (facts["use_sliding_window"] and facts.get("sliding_window")):
        return section
    return section | decoder_facts.windows(facts, lambda _: ropes.translate(str.maketrans("01", "10")))


def _write_llama(model: LlamaConfig) -> dict[str, Any]:
    return {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, **decoder_facts.both_forms(model)}


def _write_mistral(model: LlamaConfig) -> dict[str, Any]:
    return {"hidden_act": "silu", "sliding_window": model.window or None, **decoder_facts.both_forms(model)}


def write_qwen(model: DecoderConfig) -> dict[str, Any]:
    """Return what a Qwen's config.json has beside the keys of the table."""
    used: dict[str, Any] = {"use_sliding_window": False, "sliding_window": None}
    if model.window:
        types = decoder_facts.layer_types(model)
        used = {"use_sliding_window": True, "sliding_window": model.window, "layer_types": types}
        used["max_window_layers"] = types.index(SLIDING) if SLIDING in types else model.layers
    return {"hidden_act": "silu", **used, **decoder_facts.both_forms(model)}


def _write_smollm3(model: LlamaConfig) -> dict[str, Any]:
    ropes = [int(kind.rotary) for kind in model.kinds()]
    facts = write_qwen(model) | {"no_rope_layers": ropes, "attention_bias": False, "mlp_bias": False}
    return facts | {"layer_types": decoder_facts.layer_types(model)}


def _why_not_llama(model: LlamaConfig) -> str:
    if model.window:
        return "has a window (model.window), which Hugging Face's Llama is without"
    return _why_not_mistral(model)


def _why_not_mistral(model: LlamaConfig) -> str:
    if model.window and not all(kind.windowed for kind in model.kinds()):
        return "has a window in some layers (model.window_layers), Hugging Face's Mistral in all"
    return decoder_facts.without_rope(model, "Hugging Face's Llama") or _why_not_smollm3(model)


def _why_not_qwen2(model: LlamaConfig) -> str:
    if not model.qkv_bias:
        return "has no biases of q, k and v (model.qkv_bias=false), which Hugging Face's Qwen2 has"
    return decoder_facts.without_rope(model, "Hugging Face's Qwen2")


def _why_not_smollm3(model: LlamaConfig) -> str:
    return "has biases of q, k and v (model.qkv_bias), which Hugging Face's Llama is without" if model.qkv_bias else ""


# What these keys describe goes out as a Llama where it can be one, whatever it came in as.
HUGGING_FACE: Mapping[str, HuggingFace] = {
    "llama": HuggingFace(
        _NAMES, "LlamaForCausalLM", KEYS, _read_llama, _write_llama, {**USUAL, "mlp_bias": False}, _why_not_llama,
    ),
    "mistral": HuggingFace(
        _NAMES, "MistralForCausalLM", KEYS, _read_mistral, _write_mistral, USUAL, _why_not_mistral,
    ),
    "qwen2": HuggingFace(_NAMES, "Qwen2ForCausalLM", KEYS, _read_qwen2, write_qwen, USUAL, _why_not_qwen2),
    "smollm3": HuggingFace(
        _NAMES, "SmolLM3ForCausalLM", KEYS, _read_smollm3, _write_smollm3, {**USUAL, "mlp_bias": False},
        _why_not_smollm3,
    ),
}  # fmt: skip

_THREE: dict[str, Any] = {"positions": 8192, "theta": 5e5}
_LONGER: dict[str, Any] = {"positions": 131_072, "theta": 5e5, "rope_scaling": "llama3", "rope_original": 8192}
_QWEN: dict[str, Any] = {"positions": 32_768, "theta": 1e6, "norm_eps": 1e-6, "qkv_bias": True}
_MISTRAL_7B: dict[str, Any] = {"positions": 32_768, "theta": 1e6}


class Llama:
    """Llama and its kind, with sizes as their makers published them."""

    TASK = "clm"
    Config = LlamaConfig
    HUGGING_FACE = HUGGING_FACE
    PRESETS: Mapping[str, Preset] = {
        "2-7b": grouped(32, 4096, 32, 32, 11008, positions=4096),
        "2-70b": grouped(80, 8192, 64, 8, 28672, positions=4096),
        "3-8b": grouped(32, 4096, 32, 8, 14336, **_THREE),
        "3-70b": grouped(80, 8192, 64, 8, 28672, **_THREE),
        "3.1-8b": grouped(32, 4096, 32, 8, 14336, **_LONGER, rope_factor=8.0),
        "3.1-70b": grouped(80, 8192, 64, 8, 28672, **_LONGER, rope_factor=8.0),
        "3.1-405b": grouped(126, 16384, 128, 8, 53248, **_LONGER, rope_factor=8.0),
        "3.2-1b": grouped(16, 2048, 32, 8, 8192, **_LONGER, rope_factor=32.0, tied=True),
        "3.2-3b": grouped(28, 3072, 24, 8, 8192, **_LONGER, rope_factor=32.0, tied=True),
        "tinyllama-1.1b": grouped(22, 2048, 32, 4, 5632, positions=2048),
        "smollm2-135m": grouped(30, 576, 9, 3, 1536, positions=8192, theta=1e5, tied=True),
        "smollm2-360m": grouped(32, 960, 15, 5, 2560, positions=8192, theta=1e5, tied=True),
        "smollm2-1.7b": grouped(24, 2048, 32, 32, 8192, positions=8192, theta=1.3e5, tied=True),
        "smollm3-3b": grouped(
            36, 2048, 16, 4, 11008, positions=65_536, theta=5e6, norm_eps=1e-6, tied=True, rope_layers="1110"
        ),
        "mistral-7b": grouped(32, 4096, 32, 8, 14336, **_MISTRAL_7B),
        "mistral-7b-v0.1": grouped(32, 4096, 32, 8, 14336, positions=32_768, window=4096),
        "mistral-nemo-12b": grouped(40, 5120, 32, 8, 14336, width=128, positions=131_072, theta=1e6),
        "qwen2-0.5b": grouped(24, 896, 14, 2, 4864, **_QWEN, tied=True),
        "qwen2.5-0.5b": grouped(24, 896, 14, 2, 4864, **_QWEN, tied=True),
        "qwen2.5-1.5b": grouped(28, 1536, 12, 2, 8960, **_QWEN, tied=True),
        "qwen2.5-3b": grouped(36, 2048, 16, 2, 11008, **_QWEN, tied=True),
        "qwen2.5-7b": grouped(28, 3584, 28, 4, 18944, **_QWEN),
    }  # fmt: skip
