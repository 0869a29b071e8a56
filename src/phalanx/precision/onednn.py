"""fp32 products by oneDNN, for AMD's processors with AVX-512.

torch multiplies fp32 by MKL, which runs its code for AVX2 on these; oneDNN runs that for AVX-512. Where there is AVX2
alone MKL is the faster one.
"""

from functools import cache

import torch
from torch import Tensor, library
from torch.nn import functional as F

from phalanx import processor


@cache
def preferred(device: torch.device) -> bool:
    """Whether this is such a processor, and torch has both libraries."""
    if device.type != "cpu" or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return False
    return processor.vendor() == "AuthenticAMD"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `F.linear`, of float32, without gradients."""
    y: Tensor = OPERATOR(x, weight, bias)
    return y


# torch's compiler lowers oneDNN's own operator for frozen weights alone; one that it does not know it calls as it is.
_OURS = library.Library("phalanx", "DEF")  # type: ignore[no-untyped-call]
_OURS.define("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor")  # type: ignore[no-untyped-call]
OPERATOR = torch.ops.phalanx.linear


@library.impl(_OURS, "linear", "CPU")
def _run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not (x.numel() and weight.numel()):  # oneDNN refuses what is empty
        return F.linear(x, weight, bias)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


@library.impl(_OURS, "linear", "Meta")
def _shape(x: Tensor, weight: Tensor, _: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])
