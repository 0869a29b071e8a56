"""From a configuration to a model with weights."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from phalanx import registry
from phalanx.config import ModelConfig
from phalanx.errors import InputError
from phalanx.nn.init import initialise


def family(name: str) -> Any:
    """The class of a model family."""
    return registry.find("model.family", registry.MODELS, name)


def with_preset(section: Mapping[str, Any]) -> dict[str, Any]:
    """A [model] section over its preset, and that over what its family has in common."""
    kind = family(section.get("family", "gpt2"))
    preset = section.get("preset", "")
    if preset and preset not in kind.PRESETS:
        raise InputError(f"model.preset={preset} is unknown; use one of {', '.join(kind.PRESETS)}")
    return {**kind.DEFAULTS, **kind.PRESETS.get(preset, {}), **section}


def check(config: ModelConfig) -> None:
    """Raise InputError for sizes that no model can have."""
    if config.hidden % config.heads:
        fits = [n for n in range(1, config.hidden + 1) if config.hidden % n == 0 and config.hidden // n >= 16]
        near = sorted(fits, key=lambda n: abs(n - config.heads))[:4]
        choice = ", ".join(map(str, sorted(near))) or "1"
        raise InputError(f"model.heads={config.heads} does not divide model.hidden={config.hidden}; use {choice}")
    if config.vocab == 0:
        raise InputError("model.vocab=0 and no tokenizer to take it from; set model.vocab")


def build(config: ModelConfig, seed: int, device: torch.device) -> nn.Module:
    """A model on `device`, initialised by `seed`."""
    check(config)
    with device:
        model: nn.Module = family(config.family)(config)
    initialise(model, seed)
    return model


def flops_per_token(config: ModelConfig, sequence: int) -> float:
    """FLOPs of forward and backward for one token: 6 a weight that multiplies, 12 × layers × hidden × sequence for
    attention (Narayanan et al., arXiv 2104.04473, appendix; causal attention counted whole). For BERT this counts the
    vocabulary at every position, as published throughputs do.
    """
    ffn = config.ffn or 4 * config.hidden
    weights = config.layers * (4 * config.hidden**2 + 2 * config.hidden * ffn) + config.vocab * config.hidden
    return 6.0 * weights + 12.0 * config.layers * config.hidden * sequence
