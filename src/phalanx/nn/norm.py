"""Norms in fp32: their statistics are the part of a transformer that half precision hurts most."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from phalanx.nn import slots
from phalanx.nn.slots import Slot
from phalanx.spec import leaves


class Norm(nn.Module):
    """A layer norm, or root-mean-square norm (arXiv 1910.07467), over the last dimension.

    Where a layout splits that, `total` sums squares over its ranks, and `size` is the width that they have together.
    """

    def __init__(self, part: leaves.Norm) -> None:
        super().__init__()
        self.eps, self.centred, self.unit_offset = part.eps, part.kind == "layer", part.unit_offset
        self.size = part.dim.size
        self.total: Slot = slots.same
        self.weight = nn.Parameter(torch.empty(part.dim.size))
        self.bias = nn.Parameter(torch.empty(part.dim.size)) if part.biased else None

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 [..., hidden] of x [..., hidden]."""
        if self.centred:
            return F.layer_norm(x.float(), x.shape[-1:], self.weight, self.bias, self.eps)
        weight = self.weight + 1 if self.unit_offset else self.weight
        if x.is_cuda and self.total is slots.same:
            return F.rms_norm(x.float(), x.shape[-1:], weight, self.eps)
        y: Tensor = _Rms.apply(x.float(), weight, self.eps, self.size, self.total)  # type: ignore[no-untyped-call]
        return y


def optional_norm(part: leaves.Norm | None) -> Norm | None:
    """Return the module of a norm, or None where there is none."""
    return Norm(part) if part else None


class _Rms(torch.autograd.Function):
    """x / rms(x) * weight, which keeps for backward no more than a layer norm does: x and a number a row. (On CPUs
    torch's own keeps x / rms(x) as well.)

    Of `size` numbers that ranks have together, x has some; `total` sums over the ranks. Key heads that several ranks
    hold count once for each, in `size` too: a mean of copies is the mean, and each copy has its share of the gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, size: int, total: Slot) -> Tensor:
        scale = torch.rsqrt(total(x.square().sum(-1, keepdim=True)) / size + eps)
        ctx.save_for_backward(x, weight, scale)
        ctx.over = size, total
        return x * scale * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x, weight, scale = ctx.saved_tensors
        size, total = ctx.over
        normed, slope = x * scale, grads[0] * weight
        change = scale * (slope - normed * (total((slope * normed).sum(-1, keepdim=True)) / size))
        return change, (grads[0] * normed).flatten(0, -2).sum(0), None, None, None
