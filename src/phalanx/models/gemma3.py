"""Gemma 3 (arXiv 2503.19786), its text model: norms before and on the branches, which multiply by 1 + weight; scaled
embeddings, gates by GELU, queries and keys normed, a window in five layers of six with rotary positions of their own.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import PositiveFloat

from phalanx.errors import InputError
from phalanx.foreign import short
from phalanx.models import decoder_facts
from phalanx.models.decoder import DecoderConfig, Kind, grouped
from phalanx.models.decoder_facts import ABSENT, KEYS, USUAL
from phalanx.models.family import Preset
from phalanx.models.hugging_face import FULL, SLIDING, Facts, HuggingFace
from phalanx.section import Share
from phalanx.spec.leaves import Norm
from phalanx.spec.model import Attention, Block
from phalanx.spec.rope import Rope

SMALL, LARGE = 262_144, 262_208  # vocabularies: the larger ones' has places for images


class Gemma3Config(DecoderConfig):
    """The network: a Gemma 3."""

    family: str = "gemma3"
    norm_eps: PositiveFloat = 1e-6
    theta: PositiveFloat = 1e6
    local_theta: PositiveFloat = 1e4
    """Base of the rotary positions' frequencies in layers with a window, which are never scaled."""
    query_scale: Share = 0.0
    """Scores are divided by the square root of this (query_pre_attn_scalar); 0 takes the width of a head."""
    tied: bool = True

    def _vocabularies(self) -> dict[str, int]:
        return {"1b": SMALL, "270m": SMALL, "4b": LARGE, "12b": LARGE, "27b": LARGE}

    @property
    def embedding_scale(self) -> float:
        """Factor by which a token's row of the embedding is multiplied."""
        return math.sqrt(self.hidden)

    def norm(self) -> Norm:
        """Return a norm of the residual stream."""
        return replace(super().norm(), unit_offset=True)

    def rope(self, kind: Kind) -> Rope | None:
        """Return the rotary positions of a layer."""
        return Rope(self.local_theta, self.width) if kind.windowed and kind.rotary else super().rope(kind)

    def attention(self, kind: Kind) -> Attention:
        """Return the attention of a layer."""
        scale = 1 / math.sqrt(self.query_scale) if self.query_scale not in (0, self.width) else 0.0
        attention = super().attention(kind)
        return replace(attention, normed="head", norm_eps=self.norm_eps, unit_offset=True, scale=scale)

    def block(self, kind: Kind) -> Block:
        """Return a layer: with a norm before and behind both branches, and the GELU in its gates."""
        mlp = self.mlp("gelu_tanh")
        return replace(super().block(kind), feed_forward=mlp, branch1=self.norm(), branch2=self.norm())


_NORMS = {
    "norm1": "input_layernorm", "branch1": "post_attention_layernorm", "norm2": "pre_feedforward_layernorm",
    "branch2": "post_feedforward_layernorm",
}  # fmt: skip
_ABSENT = {  # by their class
    **ABSENT, "vocab_size": LARGE, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131_072,
    "tie_word_embeddings": True, "query_pre_attn_scalar": 256, "sliding_window": 4096, "rope_local_base_freq": 1e4,
}  # fmt: skip
_KEYS = {**KEYS, "query_scale": "query_pre_attn_scalar", "local_theta": "rope_local_base_freq"}
_USUAL = {key: value for key, value in USUAL.items() if key != "hidden_act"} | {
    "hidden_activation": "gelu_pytorch_tanh", "attn_logit_softcapping": None, "final_logit_softcapping": None,
}  # fmt: skip


def _read(facts: Facts) -> dict[str, Any]:
    facts = {**_ABSENT, **facts}
    if facts.get("use_bidirectional_attention"):
        raise InputError("use_bidirectional_attention=True is not known here")
    for key in ("query_pre_attn_scalar", "rope_local_base_freq"):
        if facts[key] is None:
            raise InputError(f"{key} is null, and a value is needed")

    local = decoder_facts.rope({**facts, "rope_theta": facts["rope_local_base_freq"]}, 1e4, SLIDING)
    if local["rope_scaling"] != "none":
        raise InputError(f"rotary positions of {SLIDING} are scaled, which is not known here")
    section = decoder_facts.section(facts) | decoder_facts.rope(facts, 1e6, FULL)
    section |= {"local_theta": local["theta"], "query_scale": facts["query_pre_attn_scalar"]}

    every = facts.get("sliding_window_pattern", facts.get("_sliding_window_pattern", 6))
    if facts.get("layer_types") is None and (type(every) is not int or not 1 <= every <= 64):
        raise InputError(f"sliding_window_pattern={short(every)} will not do: it is to be a whole number")
    return section | decoder_facts.windows(facts, lambda _: "1" * (every - 1) + "0", unlike=True)


def _write(model: Gemma3Config) -> dict[str, Any]:
    scalar = model.query_scale or model.width
    facts = {
        "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False, "attn_logit_softcapping": None,
        "final_logit_softcapping": None, "query_pre_attn_scalar": int(scalar) if scalar == int(scalar) else scalar,
        "layer_types": decoder_facts.layer_types(model), "sliding_window": model.window or model.positions,
    }  # fmt: skip
    pattern = decoder_facts.shortest("".join("01"[kind.windowed] for kind in model.kinds()))
    if pattern == "1" * (len(pattern) - 1) + "0":
        facts["sliding_window_pattern"] = len(pattern)
    return facts | decoder_facts.both_forms(model, model.local_theta)


def _why_not(model: Gemma3Config) -> str:
    if model.hidden % model.heads:
        return "has a number of heads (model.heads) that does not divide model.hidden, as Gemma 3's does"
    return decoder_facts.without_rope(model, "Gemma 3")


def _not_whole(_: Gemma3Config) -> str:
    """Return why no model goes out as the whole of which it is the part that reads text."""
    return "sees no images, as Hugging Face's gemma3 does"


_SHORT: dict[str, Any] = {"width": 256, "positions": 32_768, "window": 512, "window_layers": "111110"}
_LONG: dict[str, Any] = {
    "positions": 131_072, "window": 1024, "window_layers": "111110", "rope_scaling": "linear", "rope_factor": 8.0,
}  # fmt: skip


class Gemma3:
    """Gemma 3, with sizes as they were published: of the larger ones, which see images, the part that reads text."""

    TASK = "clm"
    Config = Gemma3Config
    HUGGING_FACE: Mapping[str, HuggingFace] = {
        "gemma3_text": HuggingFace(
            decoder_facts.names(**_NORMS), "Gemma3ForCausalLM", _KEYS, _read, _write, _USUAL, _why_not,
        ),
        "gemma3": HuggingFace(
            decoder_facts.names(within="language_model.", **_NORMS), "Gemma3ForConditionalGeneration", _KEYS, _read,
            _write, _USUAL, _not_whole, inner="text_config",
        ),
    }  # fmt: skip
    PRESETS: Mapping[str, Preset] = {
        "270m": grouped(18, 640, 4, 1, 2048, **_SHORT),
        "1b": grouped(26, 1152, 4, 1, 6912, **_SHORT),
        "4b": grouped(34, 2560, 8, 4, 10240, **_LONG, width=256),
        "12b": grouped(48, 3840, 16, 8, 15360, **_LONG, width=256),
        "27b": grouped(62, 5376, 32, 16, 21504, **_LONG, width=128, query_scale=168.0),
    }
