"""Ring attention: keys and values travel from rank to rank, and nobody ever has all of them (arXiv 2310.01889).

A rank attends to the keys it has while the next ones are on their way, and merges what it finds by the softmaxes'
normalisers. Backward sends the keys around again, and with them the gradients that they have gathered so far. The
zigzag slices of `context` leave every rank the same work: of an earlier rank's keys all queries see the first half, of
a later one's the second half of the queries sees all.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from phalanx.nn.attention import Context
from phalanx.parallel.mesh import Axis

_ALL = slice(None)
_aten = torch.ops.aten


class Ring:
    """Fills `attend` where every rank of `axis` has its part of the queries, keys and values."""

    def __init__(self, axis: Axis, positions: Callable[..., Tensor]) -> None:
        """`positions(length, rank=…)` are those that a rank has of a sequence."""
        self.axis, self.positions = axis, positions

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """softmax(q kᵀ / sqrt(d)) v over the keys of all ranks; all [batch, heads, part of seq, d]"""
        y: Tensor = _Ring.apply(q, torch.stack([k, v]), context, self)  # type: ignore[no-untyped-call]
        return y

    def meeting(self, source: int, seq: int, causal: bool) -> tuple[slice, slice, bool]:
        """Which queries meet which keys of the rank `source`, and whether only past ones."""
        if source == self.axis.rank or not causal:
            return _ALL, _ALL, causal
        return (_ALL, slice(seq // 2), False) if source < self.axis.rank else (slice(seq // 2, None), _ALL, False)

    def mask(self, source: int, context: Context) -> Tensor | None:
        """Who may attend to whom of the rank `source`, where documents end inside a sequence; the past is another's
        concern. bool [batch, 1, seq, seq]"""
        whole = context.documents
        if whole is None:
            return None
        here, there = (self.positions(whole.shape[1], rank=rank) for rank in (self.axis.rank, source))
        mask = (whole[:, here, None] == whole[:, None, there])[:, None]
        if context.causal and source == self.axis.rank:
            mask = mask & torch.ones_like(mask).tril()
        return mask


class _Hop:
    """Gives `x` to the next rank of an axis and takes the previous rank's."""

    def __init__(self, x: Tensor, axis: Axis) -> None:
        self.sent, self.received = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
        self.works = dist.batch_isend_irecv([
            dist.P2POp(dist.isend, self.sent, group=axis.group, group_peer=(axis.rank + 1) % axis.size),
            dist.P2POp(dist.irecv, self.received, group=axis.group, group_peer=(axis.rank - 1) % axis.size),
        ])  # fmt: skip

    def wait(self) -> Tensor:
        """What the previous rank gave."""
        for work in self.works:
            work.wait()
        return self.received


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, context: Context, ring: Ring) -> Tensor:
        out = torch.zeros_like(q, dtype=torch.float32)
        lse = torch.full(q.shape[:-1], -math.inf, dtype=torch.float32, device=q.device)  # log of the softmax's sum
        held, size = kv, ring.axis.size
        for turn in range(size):
            source = (ring.axis.rank - turn) % size
            following = _Hop(held, ring.axis) if turn < size - 1 else None
            rows, keys, causal = ring.meeting(source, q.shape[2], context.causal)
            mask = _cut(ring.mask(source, context), rows, keys)
            part, norm = _attend(q[:, :, rows], held[0][:, :, keys], held[1][:, :, keys], mask, causal)
            total = torch.logaddexp(lse[:, :, rows], norm)
            before, now = (lse[:, :, rows] - total).exp(), (norm - total).exp()
            out[:, :, rows] = out[:, :, rows] * before[..., None] + part * now[..., None]
            lse[:, :, rows] = total
            if following:
                held = following.wait()
        out = out.to(q.dtype)
        ctx.save_for_backward(q, kv, out, lse)
        ctx.how = context, ring
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        q, held, out, lse = ctx.saved_tensors
        context, ring = ctx.how
        (grad,), size = grads, ring.axis.size
        dq = torch.zeros_like(q, dtype=torch.float32)
        dkv = torch.zeros_like(held, dtype=torch.float32)  # of the keys held, as far as they have come
        coming: _Hop | None = None
        for turn in range(size):
            source = (ring.axis.rank - turn) % size
            following = _Hop(held, ring.axis) if turn < size - 1 else None
            rows, keys, causal = ring.meeting(source, q.shape[2], context.causal)
            mask = _cut(ring.mask(source, context), rows, keys)
            parts = _attend_backward(grad[:, :, rows], q[:, :, rows], held[0][:, :, keys], held[1][:, :, keys],
                                     out[:, :, rows], lse[:, :, rows], mask, causal)  # fmt: skip
            if coming:
                dkv = coming.wait()
            dq[:, :, rows] += parts[0]
            dkv[0][:, :, keys] += parts[1]
            dkv[1][:, :, keys] += parts[2]
            coming = _Hop(dkv, ring.axis)
            if following:
                held = following.wait()
        assert coming
        return dq.to(q.dtype), coming.wait().to(q.dtype), None, None


def _cut(mask: Tensor | None, rows: slice, keys: slice) -> Tensor | None:
    return None if mask is None else mask[:, :, rows, keys]


def _fused(q: Tensor, mask: Tensor | None) -> bool:
    """Whether torch has a kernel that gives the normalisers too."""
    if mask is not None:
        return False
    return q.device.type == "cpu" or (q.is_cuda and q.dtype != torch.float32 and q.shape[-1] % 8 == 0)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention to some of the keys, and the log of its normaliser: -inf where none is allowed."""
    if _fused(q, mask):
        kernel = _aten._scaled_dot_product_flash_attention_for_cpu if q.device.type == "cpu" else (
            _aten._scaled_dot_product_flash_attention)  # fmt: skip
        out, lse, *_ = kernel(q, k, v, 0.0, causal)
        return out, lse
    scores = _scores(q, k, mask, causal)
    lse = scores.logsumexp(-1)
    return (scores - lse.clamp_min(torch.finfo(lse.dtype).min)[..., None]).exp().to(v.dtype) @ v, lse


def _attend_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, mask: Tensor | None,
                     causal: bool) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of q, k and v by the output and the normaliser over the keys of all ranks."""
    if _fused(q, mask):
        if q.device.type == "cpu":
            flash = _aten._scaled_dot_product_flash_attention_for_cpu_backward
            return tuple(flash(grad, q, k, v, out, lse, 0.0, causal))
        state = torch.zeros(2, dtype=torch.uint64, device=q.device)  # of dropout's generator, unused
        flash = _aten._scaled_dot_product_flash_attention_backward
        return tuple(flash(grad, q, k, v, out, lse, None, None, q.shape[2], k.shape[2], 0.0, causal, state, state[:0]))
    weights = (_scores(q, k, mask, causal) - lse[..., None]).exp()
    slope = grad.float() @ v.float().mT - (grad * out).float().sum(-1, keepdim=True)
    change = weights * slope / math.sqrt(q.shape[-1])
    return change @ k.float(), change.mT @ q.float(), weights.mT @ grad.float()


def _scores(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    scores = q.float() @ k.float().mT / math.sqrt(q.shape[-1])
    if mask is not None:
        return scores.masked_fill(~mask, -math.inf)
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf) if causal else scores
