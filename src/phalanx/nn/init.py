"""Initial weights as a function of the seed, the parameter's name and the element's global coordinates."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

import torch
from torch import Tensor, nn

from phalanx.nn import random
from phalanx.nn.norm import Norm


class Piece(NamedTuple):
    """A box of a parameter: the tensor to fill, and where in the whole it begins."""

    tensor: Tensor
    offset: tuple[int, ...]


def initialise(
    model: nn.Module, seed: int, pieces: Mapping[str, Sequence[Piece]] | None = None, cut: float = 0.0
) -> None:
    """Fill every parameter, or the `pieces` of it that this rank holds, by its name: weights N(0, std²), truncated at
    `cut` × std unless that is 0, biases 0, norms 1 and 0, or 0 alone where they add 1.

    The values depend on the seed, the parameter's name and the element's place, not on the order of modules or on who
    holds which part.
    """
    if pieces is None:
        pieces = {name: [Piece(p, (0,) * p.ndim)] for name, p in model.named_parameters()}

    with torch.no_grad():
        for name, module in model.named_modules():
            if hasattr(module, "reset"):
                module.reset()
            for kind, _ in module.named_parameters(recurse=False):
                for tensor, offset in pieces[f"{name}.{kind}"]:
                    if kind == "weight" and hasattr(module, "std"):
                        key = random.key(seed, crc32(name.encode()))
                        tensor.copy_(random.normal(tuple(tensor.shape), offset, key, module.std, cut))
                    elif isinstance(module, Norm):
                        tensor.fill_(kind == "weight" and not module.unit_offset)
                    elif hasattr(module, "axes"):
                        tensor.zero_()
