"""From a configuration to a model with weights."""

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from phalanx import registry
from phalanx.config import ModelConfig
from phalanx.models.sizes import Sizes, check
from phalanx.nn.init import initialise

Named = Iterator[tuple[str, Tensor]]


class Family(Sizes, Protocol):
    """The class of a model family."""

    @property
    def LOSSES(self) -> tuple[str, ...]:
        """Names of the losses that its models can give."""
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
