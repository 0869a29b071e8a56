"""Models with weights, made from a configuration."""

import torch

from phalanx.config import ModelConfig
from phalanx.models.family import spec_of
from phalanx.nn.init import initialise
from phalanx.nn.model import Model


def make(config: ModelConfig) -> Model:
    """Return a model on torch's current device, its weights not yet written. InputError for impossible sizes."""
    return Model(spec_of(config))


def build(config: ModelConfig, seed: int, device: torch.device) -> Model:
    """Return a model on `device`, initialised by `seed`."""
    with device:
        model = make(config)
    initialise(model, seed, cut=config.init_cut)
    return model
