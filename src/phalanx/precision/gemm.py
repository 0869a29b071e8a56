"""The numbers of the matrix products: what fills the `gemm` and `attend` slots.

Weights, moments and the residual stream stay fp32; only products run lower, so no master copies are kept. A processor
without bf16 instructions multiplies bf16 at a seventh of its fp32 speed (measured on AVX2): there the operands are
rounded to bf16 and multiplied in fp32, which is what bf16 units with fp32 accumulation compute, and is kept in bf16.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phalanx.errors import InputError
from phalanx.nn import slots
from phalanx.nn.attention import Attention, Context, Dropping
from phalanx.nn.block import Block
from phalanx.nn.heads import VocabularyHead
from phalanx.nn.linear import Linear
from phalanx.precision import fp8, onednn


def native_bf16(device: torch.device) -> bool:
    """Whether the hardware itself multiplies bf16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def resolve(dtype: str, device: torch.device) -> str:
    """`auto` made definite: bf16 where the hardware multiplies it, fp32 elsewhere. InputError for what it lacks."""
    if dtype == "fp8" and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        raise InputError(f"precision.dtype=fp8 is not in this GPU ({torch.cuda.get_device_name(device)}); use bf16")
    if dtype != "auto":
        return dtype
    return "bf16" if native_bf16(device) else "fp32"


def fill(model: nn.Module, dtype: str, device: torch.device) -> None:
    """Put the functions of `dtype` (fp32, bf16, fp16, fp8) into the model's slots."""
    gemm = _multiplier(dtype, device)
    for module in model.modules():
        if isinstance(module, Linear | VocabularyHead):
            module.gemm = gemm
    if isinstance(gemm, _Rounded):
        _attend_in_fp32(model)
    if dtype == "fp8":
        _multiply_blocks_by(model, fp8.Scaled(gemm))


def _multiplier(dtype: str, device: torch.device) -> Callable[..., Tensor]:
    if dtype == "fp32":
        return onednn.gemm if onednn.pays(device) else slots.gemm
    number = torch.float16 if dtype == "fp16" else torch.bfloat16
    emulate = device.type == "cpu" and not (number == torch.bfloat16 and native_bf16(device))
    return _Rounded(number) if emulate else _Cast(number)


def _attend_in_fp32(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, Attention) and not isinstance(module.attend, Dropping):
            module.attend = _Wide(module.attend)


def _multiply_blocks_by(model: nn.Module, gemm: Callable[..., Tensor]) -> None:
    for linear in (m for block in model.modules() if isinstance(block, Block) for m in block.modules()):
        if isinstance(linear, Linear):
            linear.gemm = gemm


class _Cast:
    """Multiply in the lower precision itself."""

    def __init__(self, number: torch.dtype) -> None:
        self.number = number

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        number = self.number
        return F.linear(x.to(number), weight.to(number), None if bias is None else bias.to(number))


class _Rounded:
    """Round the operands, multiply in fp32, round the result."""

    def __init__(self, number: torch.dtype) -> None:
        self.number = number

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y: Tensor = _RoundedProduct.apply(x.to(self.number), weight, bias)  # type: ignore[no-untyped-call]
        return y


class _RoundedProduct(torch.autograd.Function):
    """Keeps its input in the lower precision, as hardware with such units would."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x.float(), weight.to(x.dtype).float(), bias).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grads[0].to(x.dtype).float()
        flat = grad.flatten(0, -2)
        bias = flat.sum(0) if ctx.needs_input_grad[2] else None
        return (grad @ weight.to(x.dtype).float()).to(x.dtype), flat.t() @ x.float().flatten(0, -2), bias


class _Wide:
    """Attention of rounded operands in fp32."""

    def __init__(self, attend: Callable[..., Tensor]) -> None:
        self.attend = attend

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        return self.attend(q.float(), k.float(), v.float(), context).to(q.dtype)
