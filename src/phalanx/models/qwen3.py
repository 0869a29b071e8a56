"""Qwen3 (arXiv 2505.09388), its dense models: a Llama whose queries and keys are normed, each head for itself."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import PositiveFloat

from phalanx.models import decoder_facts
from phalanx.models.decoder import DecoderConfig, Kind, grouped
from phalanx.models.decoder_facts import ABSENT, KEYS, USUAL
from phalanx.models.family import Preset
from phalanx.models.hugging_face import Facts, HuggingFace
from phalanx.models.llama import qwen_windows, write_qwen
from phalanx.spec.model import Attention


class Qwen3Config(DecoderConfig):
    """The network: a Qwen3."""

    family: str = "qwen3"
    norm_eps: PositiveFloat = 1e-6

    def _vocabularies(self) -> dict[str, int]:
        return {"": 151_936}

    def attention(self, kind: Kind) -> Attention:
        """Return the attention of a layer."""
        return replace(super().attention(kind), normed="head", norm_eps=self.norm_eps)


_NAMES = decoder_facts.names(norm1="input_layernorm", norm2="post_attention_layernorm")
_ABSENT = {  # by their class
    **ABSENT, "intermediate_size": 22016, "max_position_embeddings": 32_768, "num_key_value_heads": 32,
    "head_dim": 128, "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28,
}  # fmt: skip


def _read(facts: Facts) -> dict[str, Any]:
    facts = {**_ABSENT, **facts}
    return decoder_facts.section(facts) | decoder_facts.rope(facts) | qwen_windows(facts)


def _write(model: Qwen3Config) -> dict[str, Any]:
    return {"attention_bias": False, **write_qwen(model)}


def _why_not(model: Qwen3Config) -> str:
    return decoder_facts.without_rope(model, "Hugging Face's Qwen3")


_SIZE: dict[str, Any] = {"width": 128, "positions": 40_960, "theta": 1e6}


class Qwen3:
    """Qwen3, with sizes as they were published."""

    TASK = "clm"
    Config = Qwen3Config
    HUGGING_FACE: Mapping[str, HuggingFace] = {
        "qwen3": HuggingFace(_NAMES, "Qwen3ForCausalLM", KEYS, _read, _write, USUAL, _why_not)
    }
    PRESETS: Mapping[str, Preset] = {
        "0.6b": grouped(28, 1024, 16, 8, 3072, **_SIZE, tied=True),
        "1.7b": grouped(28, 2048, 16, 8, 6144, **_SIZE, tied=True),
        "4b": grouped(36, 2560, 32, 8, 9728, **_SIZE, tied=True),
        "8b": grouped(36, 4096, 32, 8, 12288, **_SIZE),
        "14b": grouped(40, 5120, 40, 8, 17408, **_SIZE),
        "32b": grouped(64, 5120, 64, 8, 25600, **_SIZE),
    }
