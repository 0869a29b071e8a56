"""Collectives with their conjugates: what backward does to undo forward.

    copy     identity       | all-reduce        into a layer whose outputs are split (no sequence parallelism)
    reduce   all-reduce     | identity          out of a layer whose inputs are split
    gather   all-gather     | reduce-scatter    into it, where the stream is split by positions (sequence parallelism)
    scatter  reduce-scatter | all-gather        out of it
    collect  all-gather     | own part          where all that follows is computed alike on every rank

(Shoeybi et al., arXiv 1909.08053; Korthikanti et al., arXiv 2205.05198.) An axis of size 1 gives the identity.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from phalanx.nn import slots
from phalanx.nn.slots import Slot
from phalanx.parallel.mesh import Axis

# torch 2.13 has new names for what 2.11 has
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def total(axis: Axis) -> Slot:
    """Return a function that sums a tensor over an axis, without gradient."""
    return _plain(axis, dist.ReduceOp.SUM)


def largest(axis: Axis) -> Slot:
    """Return a function that takes the maximum of a tensor over an axis, without gradient."""
    return _plain(axis, dist.ReduceOp.MAX)


def _plain(axis: Axis, operation: Any) -> Slot:
    if axis.size == 1:
        return slots.same
    # detached: what is asked for here (counts, maxima) has its gradient by a formula, if any
    return lambda x: _all_reduce(x.detach(), axis, operation)


def conjugate(kind: str, axis: Axis, dim: int = 1) -> Slot:
    """Return one of the pairs above along an axis, as a function with gradient; `dim` is the one that is split."""
    if axis.size == 1:
        return slots.same

    def apply(x: Tensor) -> Tensor:
        y: Tensor = _Conjugate.apply(x, kind, axis, dim)  # type: ignore[no-untyped-call]
        return y

    return apply


def own(x: Tensor, axis: Axis, dim: int = 1) -> Tensor:
    """Return this rank's part of a whole tensor: the rank-th of equal chunks along `dim`."""
    return x.chunk(axis.size, dim)[axis.rank]


def gathered(x: Tensor, axis: Axis, dim: int = 1) -> Tensor:
    """Return the whole of a tensor of which every rank has an equal part along `dim`, without gradient."""
    # the collective joins along the first dim, and reads memory in one piece
    part = x.movedim(dim, 0).contiguous()
    out = part.new_empty(axis.size * part.shape[0], *part.shape[1:])
    _all_gather(out, part, group=axis.group)
    return out.movedim(0, dim).contiguous()


def _all_reduce(x: Tensor, axis: Axis, operation: Any = dist.ReduceOp.SUM) -> Tensor:
    # reduced in place, so a copy: autograd may still need x
    y = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(y, operation, group=axis.group)
    return y


def _scattered(x: Tensor, axis: Axis, dim: int) -> Tensor:
    # the collective splits along the first dim, and reads memory in one piece; it sums in the tensor's own precision
    whole = x.movedim(dim, 0).contiguous()
    out = whole.new_empty(whole.shape[0] // axis.size, *whole.shape[1:])
    _reduce_scatter(out, whole, group=axis.group)
    return out.movedim(0, dim).contiguous()


def _same(x: Tensor, axis: Axis, dim: int) -> Tensor:
    return x.view_as(x)  # a new tensor: autograd does not take an input for an output


def _reduced(x: Tensor, axis: Axis, dim: int) -> Tensor:
    return _all_reduce(x, axis)


_PAIRS = {
    "copy": (_same, _reduced),
    "reduce": (_reduced, _same),
    "gather": (gathered, _scattered),
    "scatter": (_scattered, gathered),
    "collect": (gathered, own),
}


class _Conjugate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: str, axis: Axis, dim: int) -> Tensor:
        ctx.how = kind, axis, dim
        return _PAIRS[kind][0](x, axis, dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        kind, axis, dim = ctx.how
        return _PAIRS[kind][1](grads[0], axis, dim), None, None, None
