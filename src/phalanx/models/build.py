"""From a configuration to a model with weights."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from phalanx import registry
from phalanx.config import ModelConfig
from phalanx.errors import InputError
from phalanx.nn.init import initialise

Named = Iterator[tuple[str, Tensor]]


class Family(Protocol):
    """The class of a model family."""

    @property
    def LOSSES(self) -> tuple[str, ...]:
        """Names of the losses that its models can give."""
        ...

    @property
    def DEFAULTS(self) -> Mapping[str, Any]:
        """What its presets have in common."""
        ...

    @property
    def PRESETS(self) -> Mapping[str, Mapping[str, Any]]:
        """Named [model] sections."""
        ...

    def __call__(self, config: ModelConfig) -> nn.Module:
        """A model, its weights not yet written."""
        ...

    def parameters_of(self, config: ModelConfig) -> int:
        """How many parameters a model has."""
        ...

    def from_hugging_face(self, state: Mapping[str, Tensor], config: ModelConfig) -> Named:
        """Weights by Phalanx's names, of weights by Hugging Face's, one at a time."""
        ...

    def to_hugging_face(self, state: Mapping[str, Tensor], config: ModelConfig) -> Named:
        """Weights by Hugging Face's names, of weights by Phalanx's, one at a time."""
        ...


def family(name: str) -> Family:
    """The family of that name."""
    return registry.MODELS.find(name)


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


def make(config: ModelConfig) -> nn.Module:
    """A model on torch's current device, its weights not yet written."""
    check(config)
    return family(config.family)(config)


def build(config: ModelConfig, seed: int, device: torch.device) -> nn.Module:
    """A model on `device`, initialised by `seed`."""
    with device:
        model = make(config)
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
