"""Layer norm in fp32: its statistics are the part of a transformer that half precision hurts most."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phalanx.nn import slots
from phalanx.nn.linear import Slot


class Norm(nn.Module):
    """Layer norm over the last dim. `share` sums the gradients of its replicated parameters over a layout."""

    def __init__(self, hidden: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(hidden))
        self.bias = nn.Parameter(torch.empty(hidden))
        self.share: Slot = slots.same

    def forward(self, x: Tensor) -> Tensor:
        """x [..., hidden] -> float32 [..., hidden]"""
        return F.layer_norm(x.float(), x.shape[-1:], self.share(self.weight), self.share(self.bias), self.eps)
