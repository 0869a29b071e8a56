"""Initial weights as a function of the seed, the parameter's name and the element's global coordinates."""

from zlib import crc32

import torch
from torch import nn

from phalanx.nn import random
from phalanx.nn.norm import Norm


def initialise(model: nn.Module, seed: int) -> None:
    """Fill every parameter by its global coordinates: weights N(0, std²), biases 0, norms 1 and 0.

    The values depend on the seed, the parameter's name and the element's place, not on the order of modules.
    """
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, Norm):
                module.weight.fill_(1)
                module.bias.zero_()
            elif hasattr(module, "std"):
                weight = module.weight
                key = random.key(seed, crc32(name.encode()))
                weight.copy_(random.normal(tuple(weight.shape), (0, 0), key, module.std))
                if getattr(module, "bias", None) is not None:
                    module.bias.zero_()
            elif hasattr(module, "reset"):
                module.reset()
