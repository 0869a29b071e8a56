"""fp32 products by oneDNN, for AMD's processors with AVX-512.

torch multiplies fp32 by MKL, which runs its code for AVX2 on these; oneDNN runs that for AVX-512. Where there is AVX2
alone MKL is the faster one.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, library
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from phalanx import processor

SMALL = 1 << 21  # multiplications below which MKL, whose calls cost less, is done first; oneDNN refuses 0


@cache
def preferred(device: torch.device) -> bool:
    """Return whether this is an AMD processor with AVX-512, and torch has both libraries."""
    if device.type != "cpu" or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return False
    return processor.vendor() == "AuthenticAMD"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `F.linear` of float32 tensors, with gradients of the first order."""
    if x.numel() * weight.shape[0] < SMALL:
        return F.linear(x, weight, bias)
    y: Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `F.linear` of float32 tensors, without gradients."""
    y: Tensor = OPERATOR(x, weight, bias)
    return y


class _Linear(torch.autograd.Function):
    """A product whose gradients are products of as many multiplications, by oneDNN too. What torch has with gradients
    in C++ costs more than this (docs/performance.md).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        y: Tensor = OPERATOR(x, weight, bias)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (x, weight), (wants_x, wants_weight, wants_bias) = ctx.saved_tensors, ctx.needs_input_grad
        flat = grads[0].flatten(0, -2)
        return (
            OPERATOR(grads[0], weight.t(), None) if wants_x else None,
            OPERATOR(flat.t(), x.flatten(0, -2).t(), None) if wants_weight else None,
            flat.sum(0) if wants_bias else None,
        )


# torch's compiler lowers oneDNN's own operator for frozen weights alone; one that it does not know it calls as it is.
_OURS = library.Library("phalanx", "DEF")  # type: ignore[no-untyped-call]
_OURS.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")  # type: ignore[no-untyped-call]
OPERATOR = torch.ops.phalanx.linear


@library.impl(_OURS, "linear", "CPU")
def _run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if x.numel() * weight.shape[0] < SMALL:
        return F.linear(x, weight, bias)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


@library.impl(_OURS, "linear", "Meta")
def _shape(x: Tensor, weight: Tensor, _: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])
