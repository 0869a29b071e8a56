"""The numbers of the matrix products: functions that fill the `gemm` and `attend` slots.

Weights, moments and the residual stream stay fp32; only products run lower, so no master copies are kept. A processor
without bf16 instructions multiplies bf16 at a seventh of its fp32 speed (measured on AVX2): there the operands are
rounded to bf16 and multiplied in fp32, which is what bf16 units with fp32 accumulation compute, and is kept in bf16.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from phalanx.errors import InputError
from phalanx.nn import slots
from phalanx.nn.attention import Attention, Context, Dropping
from phalanx.nn.heads import VocabularyHead
from phalanx.nn.linear import Linear
from phalanx.precision import fp8, onednn

# What goes into products; fp8's are bf16 wherever it does not pay.
NUMBERS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}


def native_bf16(device: torch.device) -> bool:
    """Return whether the hardware itself multiplies bf16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def resolve(dtype: str, device: torch.device) -> str:
    """Return `auto` made definite: bf16 where the hardware multiplies it, else fp32. InputError for what it lacks."""
    if dtype == "fp8" and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        raise InputError(f"precision.dtype=fp8 is not in this GPU ({torch.cuda.get_device_name(device)}); use bf16")
    if dtype != "auto":
        return dtype
    return "bf16" if native_bf16(device) else "fp32"


def product(number: torch.dtype, device: torch.device) -> Callable[..., Tensor]:
    """Return how a run in this precision multiplies: a function of x [..., in], weight [out, in] and bias [out]."""
    if number == torch.float32:
        return onednn.linear if onednn.preferred(device) else slots.gemm
    if device.type != "cpu" or (number == torch.bfloat16 and native_bf16(device)):
        return _Cast(number)
    return _Rounded(number, onednn.multiply if onednn.preferred(device) else F.linear)


def fill(model: nn.Module, dtype: str, device: torch.device) -> None:
    """Put the functions of `dtype` (fp32, bf16, fp16, fp8) into the model's slots."""
    gemm = product(NUMBERS[dtype], device)
    for module in model.modules():
        if isinstance(module, Linear | VocabularyHead):
            module.gemm = gemm
        elif isinstance(gemm, _Rounded) and isinstance(module, Attention) and not isinstance(module.attend, Dropping):
            module.attend = _Wide(module.attend)
    if dtype == "fp8":
        fp8.fill(model, gemm)


class _Cast:
    """A product in the lower precision itself."""

    def __init__(self, number: torch.dtype) -> None:
        self.number = number

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x.to(self.number), weight.to(self.number), None if bias is None else bias.to(self.number))


class _Rounded:
    """A product of rounded operands, computed in fp32 by `linear`, its result rounded."""

    def __init__(self, number: torch.dtype, linear: Callable[..., Tensor] = F.linear) -> None:
        self.number, self.linear = number, linear

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y: Tensor = _RoundedProduct.apply(x.to(self.number), weight, bias, self.linear)  # type: ignore[no-untyped-call]
        return y


class _RoundedProduct(torch.autograd.Function):
    """A product that keeps its input in the lower precision, as hardware with such units would."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, linear: Callable[..., Tensor]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.linear = linear
        return linear(x.float(), weight.to(x.dtype).float(), bias).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        (x, weight), (wants_x, wants_weight, wants_bias, _) = ctx.saved_tensors, ctx.needs_input_grad
        # rounded too, as what enters such a unit is; sums over rows stay fp32
        grad = grads[0].to(x.dtype).float()
        flat, rows = grad.flatten(0, -2), x.float().flatten(0, -2)
        return (
            ctx.linear(grad, weight.to(x.dtype).float().t()).to(x.dtype) if wants_x else None,
            ctx.linear(flat.t(), rows.t()) if wants_weight else None,
            flat.sum(0) if wants_bias else None,
            None,
        )


class _Wide:
    """Attention of rounded operands, computed in fp32, its result rounded."""

    def __init__(self, attend: Callable[..., Tensor]) -> None:
        self.attend = attend

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        return self.attend(q.float(), k.float(), v.float(), context).to(q.dtype)
