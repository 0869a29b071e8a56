"""Default contents of a slot, used until a layout or a precision fills it."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

Slot = Callable[[Tensor], Tensor]


def same(x: Tensor) -> Tensor:
    """Return `x`: one device has nothing to exchange."""
    return x


def gemm(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x [..., in] times weight [out, in], plus bias [out], in the tensors' own precision."""
    return F.linear(x, weight, bias)
