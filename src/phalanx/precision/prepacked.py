"""Products for inference: each weight rounded and laid out once, for the kernel that will multiply by it.

On CPUs oneDNN's own layout spares every call the packing of the weight, which at few rows is most of the work; int8
rounds weights by output channel and activations by call, and multiplies in integers. On GPUs weights are held in the
numbers they are multiplied in.
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phalanx.errors import InputError
from phalanx.nn.heads import VocabularyHead
from phalanx.nn.linear import Linear
from phalanx.precision.gemm import native_bf16

NUMBERS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": torch.float32}


def precisions(device: torch.device) -> tuple[str, ...]:
    """Return names of the precisions that packed products offer on a device."""
    if device.type == "cuda":
        return ("fp32", "bf16", "fp16") if native_bf16(device) else ("fp32", "fp16")
    return ("fp32", "bf16", "int8") if native_bf16(device) else ("fp32", "int8")


def fill(model: nn.Module, precision: str, device: torch.device, words: Tensor | None = None) -> None:
    """Put packed products into the model's slots. `words` is the embedding that a vocabulary head multiplies by.
    InputError for a precision that this device lacks.
    """
    possible = precisions(device)
    if precision not in possible:
        raise InputError(f"precision={precision}: this {device.type} has {' and '.join(possible)}; use one of them")
    for module in model.modules():
        if isinstance(module, Linear):
            module.gemm = _packed(module.weight, module.bias, precision)
        elif isinstance(module, VocabularyHead) and words is not None:
            module.gemm = _packed(words[: module.held], module.bias, precision)


def _packed(weight: Tensor, bias: Tensor | None, precision: str) -> Any:
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    if precision == "int8":
        return _Integers(weight, bias)
    return (_Held if weight.is_cuda else _Plain)(weight, bias, NUMBERS[precision])


class _Held:
    """A product on a GPU. Its tensors are parameters: a compiler takes the sizes of these alone for constants."""

    def __init__(self, weight: Tensor, bias: Tensor | None, number: torch.dtype) -> None:
        self.number, self.weight = number, nn.Parameter(weight.to(number), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.to(number), requires_grad=False)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x [..., in] times the held weight, plus its bias if one is given; `weight` itself is not read."""
        return F.linear(x.to(self.number), self.weight, None if bias is None else self.bias)


class _Plain:
    """A product on a CPU, in fp32 or bf16."""

    def __init__(self, weight: Tensor, bias: Tensor | None, number: torch.dtype) -> None:
        self.number, self.bias = number, None if bias is None else bias.to(number)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(number).contiguous(), None)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x [..., in] times the packed weight, plus its bias if one is given."""
        x, bias = x.to(self.number).contiguous(), None if bias is None else self.bias
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, bias, "none", [], "")
        return y


class _Integers:
    """A product on a CPU, in int8."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        scales = (weight.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny).double()
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        rounded = torch.round(weight.double() / scales[:, None]).clamp(-127, 127).to(torch.int8)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch means to drop such tensors, and has nothing else that is as fast
            self.weight = torch._make_per_channel_quantized_tensor(rounded, scales, zeros, 0)

        self.bias = bias
        self.packed: dict[bool, Any] = {}  # with a bias, without

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return x [..., in] times the packed weight, plus its bias if one is given."""
        biased = bias is not None
        if biased not in self.packed:
            self.packed[biased] = torch.ops.quantized.linear_prepack(self.weight, self.bias if biased else None)
        y: Tensor = torch.ops.quantized.linear_dynamic(x.float(), self.packed[biased], True)
        return y
