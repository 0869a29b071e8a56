"""OLMo 2 (arXiv 2501.00656) and OLMo 3: norms on the branches alone, queries and keys normed over all heads together.

OLMo 3 has a window in three layers of four, and scales the rotary positions of the others for longer texts.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import PositiveFloat

from phalanx.errors import InputError
from phalanx.models import decoder_facts
from phalanx.models.decoder import DecoderConfig, Kind, grouped
from phalanx.models.decoder_facts import ABSENT, KEYS, USUAL
from phalanx.models.family import Preset
from phalanx.models.hugging_face import FULL, SLIDING, Facts, HuggingFace
from phalanx.spec.model import Attention, Block
from phalanx.spec.rope import Rope


class OlmoConfig(DecoderConfig):
    """The network: an OLMo."""

    family: str = "olmo"
    norm_eps: PositiveFloat = 1e-6

    def _vocabularies(self) -> dict[str, int]:
        return {"2-7b": 100_352, "3-7b": 100_278}

    def rope(self, kind: Kind) -> Rope | None:
        """Return the rotary positions of a layer: those with a window are never scaled."""
        return Rope(self.theta, self.width) if kind.windowed and kind.rotary else super().rope(kind)

    def attention(self, kind: Kind) -> Attention:
        """Return the attention of a layer."""
        return replace(super().attention(kind), normed="width", norm_eps=self.norm_eps)

    def block(self, kind: Kind) -> Block:
        """Return a layer: what attention and the feed-forward layer give is normed, and then added."""
        return replace(super().block(kind), norm1=None, norm2=None, branch1=self.norm(), branch2=self.norm())


_NAMES = decoder_facts.names(branch1="post_attention_layernorm", branch2="post_feedforward_layernorm")
_ABSENT = {  # by their classes
    **ABSENT, "intermediate_size": 11008, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
    "sliding_window": 4096,
}  # fmt: skip


def _read_olmo2(facts: Facts) -> dict[str, Any]:
    facts = {**_ABSENT, **facts}
    return decoder_facts.section(facts) | decoder_facts.rope(facts) | {"window": 0, "window_layers": "1"}


def _read_olmo3(facts: Facts) -> dict[str, Any]:
    """Return the keys of [model]. InputError where layers with a window are turned otherwise than those without, but
    for the scaling.
    """
    facts = {**_ABSENT, **facts}
    full, sliding = (decoder_facts.rope(facts, 5e5, layer_type) for layer_type in (FULL, SLIDING))
    windows = decoder_facts.windows(facts, lambda _: "1110", unlike=True)
    if windows["window"] and sliding != {"theta": full["theta"], "rope_scaling": "none"}:
        raise InputError(
            f"rope_parameters has another rope_theta for {SLIDING} than for {FULL}, or scales it: not known here"
        )
    return decoder_facts.section(facts) | full | windows


def _write_olmo2(model: OlmoConfig) -> dict[str, Any]:
    return {"hidden_act": "silu", "attention_bias": False, **decoder_facts.both_forms(model)}


def _write_olmo3(model: OlmoConfig) -> dict[str, Any]:
    facts = {"hidden_act": "silu", "attention_bias": False, **decoder_facts.both_forms(model, model.theta)}
    return facts | {"sliding_window": model.window, "layer_types": decoder_facts.layer_types(model)}


def _why_not_olmo2(model: OlmoConfig) -> str:
    return "has a window (model.window), which OLMo 2 is without" if model.window else _why_not(model)


def _why_not(model: OlmoConfig) -> str:
    return decoder_facts.without_rope(model, "OLMo")


class Olmo:
    """OLMo 2 and 3, with sizes as they were published."""

    TASK = "clm"
    Config = OlmoConfig
    HUGGING_FACE: Mapping[str, HuggingFace] = {
        "olmo2": HuggingFace(_NAMES, "Olmo2ForCausalLM", KEYS, _read_olmo2, _write_olmo2, USUAL, _why_not_olmo2),
        "olmo3": HuggingFace(_NAMES, "Olmo3ForCausalLM", KEYS, _read_olmo3, _write_olmo3, USUAL, _why_not),
    }
    PRESETS: Mapping[str, Preset] = {
        "2-1b": grouped(16, 2048, 16, 16, 8192, positions=4096, theta=5e5),
        "2-7b": grouped(32, 4096, 32, 32, 11008, positions=4096, theta=5e5),
        "2-13b": grouped(40, 5120, 40, 40, 13824, positions=4096, theta=5e5),
        "2-32b": grouped(64, 5120, 40, 8, 27648, positions=4096, theta=5e5),
        "3-7b": grouped(
            32, 4096, 32, 32, 11008, positions=65_536, theta=5e5, window=4096, window_layers="1110",
            rope_scaling="yarn", rope_factor=8.0, rope_original=8192,
        ),
    }  # fmt: skip
