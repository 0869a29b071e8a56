"""The sizes of model families, which ask for no torch: named ones, and what no model can have."""

from collections.abc import Mapping
from typing import Any, Protocol

from phalanx import registry
from phalanx.config import ModelConfig
from phalanx.errors import InputError

Section = Mapping[str, Any]  # of [model]
PRETRAINING = {"gpt2": "clm", "bert": "mlm"}  # the task that each family is pretrained by


class Sizes(Protocol):
    """What a model family offers by name."""

    @property
    def DEFAULTS(self) -> Section:
        """What its presets have in common."""
        ...

    @property
    def PRESETS(self) -> Mapping[str, Section]:
        """Named [model] sections."""
        ...


def _size(common: Section, layers: int, hidden: int, heads: int) -> Section:
    return {**common, "layers": layers, "hidden": hidden, "heads": heads}


_GPT2 = {"positions": 1024, "segments": 0, "norm_first": True, "norm_eps": 1e-5, "gelu": "tanh"}
_GOOGLE = {"positions": 512, "segments": 2, "gelu": "erf", "norm_first": False, "norm_eps": 1e-12}
_MEGATRON = {**_GOOGLE, "norm_first": True, "norm_eps": 1e-5}


class GPT2:
    """OpenAI's four sizes and those of the Megatron paper (arXiv 1909.08053, table 1)."""

    DEFAULTS: Section = _GPT2
    PRESETS: Mapping[str, Section] = {
        "124m": _size(_GPT2, 12, 768, 12),
        "355m": _size(_GPT2, 24, 1024, 16),
        "774m": _size(_GPT2, 36, 1280, 20),
        "1.5b": _size(_GPT2, 48, 1600, 25),
        "1.2b": _size(_GPT2, 40, 1536, 16),
        "2.5b": _size(_GPT2, 54, 1920, 20),
        "4.2b": _size(_GPT2, 64, 2304, 24),
        "8.3b": _size(_GPT2, 72, 3072, 32),
    }


class Bert:
    """Google's post-LN sizes (arXiv 1810.04805, 1908.08962) and Megatron's pre-LN sizes (arXiv 1909.08053)."""

    DEFAULTS: Section = _GOOGLE
    PRESETS: Mapping[str, Section] = {
        "tiny": _size(_GOOGLE, 2, 128, 2),
        "mini": _size(_GOOGLE, 4, 256, 4),
        "small": _size(_GOOGLE, 4, 512, 8),
        "base": _size(_GOOGLE, 12, 768, 12),
        "large": _size(_GOOGLE, 24, 1024, 16),
        "megatron-345m": _size(_MEGATRON, 24, 1024, 16),
        "megatron-1.3b": _size(_MEGATRON, 24, 2048, 32),
        "megatron-3.9b": _size(_MEGATRON, 48, 2560, 40),
    }


def with_preset(section: Section) -> dict[str, Any]:
    """A [model] section over its preset, and that over what its family has in common."""
    kind = registry.SIZES.find(section.get("family", "gpt2"))
    preset = section.get("preset", "")
    if preset and preset not in kind.PRESETS:
        raise InputError(f"model.preset={preset} is unknown; use one of {', '.join(kind.PRESETS)}")
    return {**kind.DEFAULTS, **kind.PRESETS.get(preset, {}), **section}


def check(config: ModelConfig) -> None:
    """Raise InputError for sizes that no model can have."""
    if config.hidden % config.heads:
        fits = [n for n in range(1, config.hidden // 16 + 1) if config.hidden % n == 0]
        near = sorted(fits, key=lambda n: abs(n - config.heads))[:4]
        choice = ", ".join(map(str, sorted(near))) or "1"
        raise InputError(f"model.heads={config.heads} does not divide model.hidden={config.hidden}; use {choice}")
    if config.vocab == 0:
        raise InputError("model.vocab=0 and no tokenizer to take it from; set model.vocab")
