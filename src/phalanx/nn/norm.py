"""Norms in fp32: their statistics are the part of a transformer that half precision hurts most."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from phalanx.spec import leaves


class Norm(nn.Module):
    """A layer norm, or root-mean-square norm (arXiv 1910.07467), over the last dimension."""

    def __init__(self, part: leaves.Norm) -> None:
        super().__init__()
        self.eps, self.centred = part.eps, part.kind == "layer"
        self.weight = nn.Parameter(torch.empty(part.dim.size))
        self.bias = nn.Parameter(torch.empty(part.dim.size)) if part.biased else None

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 [..., hidden] of x [..., hidden]."""
        if self.centred:
            return F.layer_norm(x.float(), x.shape[-1:], self.weight, self.bias, self.eps)
        return _rms_norm(x.float(), self.weight, self.eps)


def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    if x.is_cuda:
        return F.rms_norm(x, x.shape[-1:], weight, eps)
    y: Tensor = _Rms.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return y


class _Rms(torch.autograd.Function):
    """x / rms(x) * weight, which keeps for backward no more than a layer norm does: x and a number a row. (On CPUs
    torch's own keeps x / rms(x) as well.)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, scale)
        return x * scale * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        normed, slope = x * scale, grads[0] * weight
        change = scale * (slope - normed * (slope * normed).mean(-1, keepdim=True))
        return change, (grads[0] * normed).flatten(0, -2).sum(0), None
