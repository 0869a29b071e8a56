"""fp32 products by oneDNN, for the processors on which torch's own are slow.

torch multiplies fp32 by MKL, which gives AMD's processors with AVX-512 its code for AVX2: on a Zen 5 260 GFLOP/s where
oneDNN reaches 770. With AVX2 alone MKL is the faster one.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, library
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from phalanx import processor


@cache
def pays(device: torch.device) -> bool:
    """Whether this is such a processor, and torch has both libraries."""
    if device.type != "cpu" or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return False
    return processor.facts().get("vendor_id") == "AuthenticAMD"


def gemm(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `slots.gemm`, of float32."""
    if not (x.numel() and weight.numel()):  # oneDNN refuses what is empty
        return F.linear(x, weight, bias)
    y: Tensor = _Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (x, weight), (of_x, of_weight, of_bias) = ctx.saved_tensors, ctx.needs_input_grad
        flat = grads[0].flatten(0, -2)
        return (
            linear(grads[0], weight.t()) if of_x else None,
            linear(flat.t(), x.flatten(0, -2).t()) if of_weight else None,
            flat.sum(0) if of_bias else None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., in] times weight [out, in], plus bias [out], without a gradient."""
    y: Tensor = OPERATOR(x, weight, bias)
    return y


# torch's compiler lowers oneDNN's own operator for frozen weights alone; one that it does not know it calls as it is.
_OURS = library.Library("phalanx", "DEF")  # type: ignore[no-untyped-call]
_OURS.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")  # type: ignore[no-untyped-call]
OPERATOR = torch.ops.phalanx.linear


@library.impl(_OURS, "linear", "CPU")
def _run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


@library.impl(_OURS, "linear", "Meta")
def _shape(x: Tensor, weight: Tensor, _: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])
