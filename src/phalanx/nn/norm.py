"""Norms in fp32: their statistics are the part of a transformer that half precision hurts most."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phalanx.spec import leaves


class Norm(nn.Module):
    """Layer norm, or root-mean-square norm (arXiv 1910.07467), over the last dim."""

    def __init__(self, part: leaves.Norm) -> None:
        super().__init__()
        self.eps, self.centred = part.eps, part.kind == "layer"
        self.weight = nn.Parameter(torch.empty(part.dim.size))
        self.bias = nn.Parameter(torch.empty(part.dim.size)) if part.biased else None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., hidden] -> float32 [..., hidden]"""
        if self.centred:
            return F.layer_norm(x.float(), x.shape[-1:], self.weight, self.bias, self.eps)
        return F.rms_norm(x.float(), x.shape[-1:], self.weight, self.eps)
