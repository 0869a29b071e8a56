"""Matrix products in 8 bits: e4m3 for what goes forward, e5m2 for gradients (Micikevicius et al., arXiv 2209.05433).

Every operand is scaled by its own largest magnitude, so that this is the largest number of its format; there is no
history of scales to save or to agree on. Where a layout splits a tensor, each part has its scale: what is rounded
differs a little from one layout to another, and the curves are close, not equal.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from phalanx.nn.block import Block
from phalanx.nn.linear import Linear

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16  # what the kernels ask of every size


class Scaled:
    """Fills `gemm` with products in 8 bits; those of other sizes than multiples of 16 are left to `wider`."""

    def __init__(self, wider: Callable[..., Tensor]) -> None:
        self.wider = wider

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return bfloat16 [..., outputs] of x [..., inputs] and weight [outputs, inputs]."""
        rows = x.shape[:-1].numel()
        if rows % MULTIPLE or weight.shape[0] % MULTIPLE or weight.shape[1] % MULTIPLE:
            return self.wider(x, weight, bias)
        y: Tensor = _Product.apply(x, weight, bias, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
        return y


def fill(model: nn.Module, wider: Callable[..., Tensor]) -> None:
    """Put `Scaled` into the slots of a model's blocks; its head keeps what it has."""
    for linear in (m for block in model.modules() if isinstance(block, Block) for m in block.modules()):
        if isinstance(linear, Linear):
            linear.gemm = Scaled(wider)


class _Product(torch.autograd.Function):
    """A product that keeps its operands in 8 bits, as the columns that backward wants: the kernel that rounds writes
    both.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, kept: bool) -> Tensor:
        small, scale = quantised(x.flatten(0, -2), FORWARD)
        weight, weight_scale = quantised(weight, FORWARD)
        if kept:
            ctx.save_for_backward(small.t().contiguous(), scale, weight.t().contiguous(), weight_scale)
        ctx.shape, ctx.dtype = x.shape, x.dtype
        y = _product(small, scale, weight, weight_scale, torch.bfloat16).view(*x.shape[:-1], -1)
        return y if bias is None else y + bias.to(y.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        x, x_scale, weight, weight_scale = ctx.saved_tensors
        flat = grads[0].flatten(0, -2)
        # e5m2, whose range is wider: gradients differ by more powers of two than activations do
        grad, scale = quantised(flat, BACKWARD)
        dx = _product(grad, scale, weight, weight_scale, torch.bfloat16)
        dw = _product(grad.t().contiguous(), scale, x, x_scale, torch.float32)
        bias = flat.float().sum(0) if ctx.needs_input_grad[2] else None
        return dx.view(ctx.shape).to(ctx.dtype), dw, bias, None


def quantised(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return a tensor in 8 bits, and the float32 scale [] that gives it back."""
    scale = (x.abs().amax().float() / torch.finfo(dtype).max).clamp_min(torch.finfo(torch.float32).tiny)
    return (x.float() / scale).to(dtype), scale


def _product(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a bᵀ, both given as rows: the kernels want the second one column by column."""
    return torch._scaled_mm(a, b.t(), a_scale, b_scale, out_dtype=dtype)
