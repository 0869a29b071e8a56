"""The functions that stand between two matrices, by the names that a model's description gives them."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

Function = Callable[[Tensor], Tensor]

_KNOWN: dict[str, Function] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
    "tanh": torch.tanh,
    "relu": F.relu,
}


def of(name: str) -> Function:
    """Return the function of that name. KeyError for one that is not known: no other stands in for it."""
    return _KNOWN[name]
