"""Products for inference on CPUs: each weight laid out once, for the kernel that will multiply by it.

oneDNN's own layout spares every call the packing of the weight, which at few rows is most of the work. int8 rounds
weights by output channel and activations by call, and multiplies in integers.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from phalanx.errors import InputError
from phalanx.nn.heads import VocabularyHead
from phalanx.nn.linear import Linear
from phalanx.precision.gemm import native_bf16

PRECISIONS = ("fp32", "bf16", "int8")


def fill(model: nn.Module, precision: str, words: Tensor | None = None) -> None:
    """Put packed products into the model's slots. `words` is the embedding that a vocabulary head multiplies by."""
    if precision not in PRECISIONS:
        raise InputError(f"precision={precision} is not for a CPU; use one of {', '.join(PRECISIONS)}")
    if precision == "bf16" and not native_bf16(torch.device("cpu")):
        raise InputError("precision=bf16: this processor does not multiply bf16; use fp32 or int8")
    for module in model.modules():
        if isinstance(module, Linear):
            module.gemm = _PACKED[precision](module.weight.detach())
        elif isinstance(module, VocabularyHead) and words is not None:
            module.gemm = _PACKED[precision](words.detach()[: module.held])


class _Plain:
    """In fp32 or bf16."""

    def __init__(self, weight: Tensor, number: torch.dtype) -> None:
        self.number = number
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(number).contiguous(), None)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The slot's; `weight` is known."""
        bias = None if bias is None else bias.to(self.number)
        x = x.to(self.number).contiguous()
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, bias, "none", [], "")
        return y


class _Integers:
    """In int8."""

    def __init__(self, weight: Tensor) -> None:
        scales = (weight.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny).double()
        zeros = torch.zeros(len(weight), dtype=torch.int64)
        rounded = torch.round(weight.double() / scales[:, None]).clamp(-127, 127).to(torch.int8)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch means to drop such tensors, and has nothing else that is as fast
            self.weight = torch._make_per_channel_quantized_tensor(rounded, scales, zeros, 0)
        self.packed: dict[int, object] = {}

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The slot's; `weight` is known, and so is `bias` from the first call on."""
        packed = self.packed.get(0 if bias is None else id(bias))
        if packed is None:
            packed = torch.ops.quantized.linear_prepack(self.weight, bias)
            self.packed[0 if bias is None else id(bias)] = packed
        y: Tensor = torch.ops.quantized.linear_dynamic(x.float(), packed, True)
        return y


_PACKED: dict[str, Callable[[Tensor], Any]] = {
    "fp32": lambda weight: _Plain(weight, torch.float32),
    "bf16": lambda weight: _Plain(weight, torch.bfloat16),
    "int8": _Integers,
}
