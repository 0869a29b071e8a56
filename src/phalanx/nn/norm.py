"""Layer norm in fp32: its statistics are the part of a transformer that half precision hurts most."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Norm(nn.Module):
    """Layer norm over the last dim."""

    def __init__(self, hidden: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(hidden))
        self.bias = nn.Parameter(torch.empty(hidden))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., hidden] -> float32 [..., hidden]"""
        return F.layer_norm(x.float(), x.shape[-1:], self.weight, self.bias, self.eps)
