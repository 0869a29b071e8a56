"""Ring attention: keys and values travel from rank to rank, and nobody ever has all of them (arXiv 2310.01889).

A rank attends to the keys it has while the next ones are on their way, and merges what it finds by the softmaxes'
normalisers. Backward sends the keys around again, and with them the gradients that they have gathered so far. The
zigzag slices of `context` leave every rank the same work: of an earlier rank's keys all queries see the first half, of
a later one's the second half of the queries sees all.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from phalanx.nn.attention import Context
from phalanx.parallel.mesh import Axis

_ALL = slice(None)
_aten = torch.ops.aten


class Meeting(NamedTuple):
    """Some of a rank's queries, and the keys and values of one rank that they see."""

    rows: slice  # of the queries
    keys: slice  # of the other rank's
    k: Tensor  # [batch, heads, those keys, d]: of a group of queries that share a key head a copy each
    v: Tensor
    mask: Tensor | None  # bool [batch, 1, rows, keys], where documents end inside a sequence
    causal: bool  # whether only the past is seen

    @property
    def fused(self) -> bool:
        """Whether torch has a kernel for this meeting that gives the normalisers too."""
        k = self.k
        on_gpu = k.is_cuda and k.dtype != torch.float32 and k.shape[-1] % 8 == 0
        return self.mask is None and (k.device.type == "cpu" or on_gpu)


class Ring:
    """Ring attention, which fills `attend` where every rank of `axis` has its part of queries, keys and values."""

    def __init__(self, axis: Axis, positions: Callable[..., Tensor]) -> None:
        """`positions(length, rank=…)` returns the positions that a rank has of a sequence."""
        self.axis, self.positions = axis, positions

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Return softmax(q kᵀ / sqrt(d)) v over the keys of all ranks; q [batch, heads, part of seq, d], k and v
        [batch, kv_heads, part of seq, d].
        """
        y: Tensor = _Ring.apply(q, torch.stack([k, v]), context, self)  # type: ignore[no-untyped-call]
        return y

    def turns(self, kv: Tensor, group: int, context: Context) -> Iterator[Meeting]:
        """Yield all meetings, this rank's own first, while its keys and values [2, batch, kv_heads, seq, d], each of
        which a `group` of queries shares, go around.
        """
        for turn in range(self.axis.size):
            source = (self.axis.rank - turn) % self.axis.size
            # sent before they are attended to here, so that the message hides behind the compute
            hop = _Hop(kv, self.axis) if turn < self.axis.size - 1 else None

            rows, keys, causal = self.seen(source, kv.shape[3], context.causal)
            mask = None if context.documents is None else self._mask(source, context)[:, :, rows, keys]
            k, v = (x[:, :, keys].repeat_interleave(group, 1) if group > 1 else x[:, :, keys] for x in kv)
            yield Meeting(rows, keys, k, v, mask, causal)
            if hop:
                kv = hop.wait()

    def seen(self, source: int, seq: int, causal: bool) -> tuple[slice, slice, bool]:
        """Return which queries see which keys of the rank `source`, and whether only past ones."""
        if source == self.axis.rank or not causal:
            return _ALL, _ALL, causal
        return (_ALL, slice(seq // 2), False) if source < self.axis.rank else (slice(seq // 2, None), _ALL, False)

    def _mask(self, source: int, context: Context) -> Tensor:
        """Return who is in whose document: bool [batch, 1, seq, seq of the rank `source`]."""
        assert context.documents is not None
        length = context.documents.shape[1]
        own, theirs = (context.documents[:, self.positions(length, rank=rank)] for rank in (self.axis.rank, source))
        mask = (own[:, :, None] == theirs[:, None, :])[:, None]
        return mask & torch.ones_like(mask).tril() if context.causal and source == self.axis.rank else mask


class _Hop:
    """A message under way: gives `x` to the next rank of an axis and takes the previous rank's."""

    def __init__(self, x: Tensor, axis: Axis) -> None:
        self.sent, self.received = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
        self.works = dist.batch_isend_irecv([
            dist.P2POp(dist.isend, self.sent, group=axis.group, group_peer=(axis.rank + 1) % axis.size),
            dist.P2POp(dist.irecv, self.received, group=axis.group, group_peer=(axis.rank - 1) % axis.size),
        ])  # fmt: skip

    def wait(self) -> Tensor:
        """Wait for the tensors that the previous rank sends, and return them."""
        for work in self.works:
            work.wait()
        return self.received


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, context: Context, ring: Ring) -> Tensor:
        # in fp32, as they are rescaled and added to once for every rank
        out = torch.zeros_like(q, dtype=torch.float32)
        lse = torch.full(q.shape[:-1], -math.inf, dtype=torch.float32, device=q.device)  # log of the softmax's sum

        for meeting in ring.turns(kv, q.shape[1] // kv.shape[2], context):
            rows = meeting.rows
            part, norm = _attend(q[:, :, rows], meeting)
            # both parts are rescaled to the sum of their normalisers, in fp32: order changes rounding alone
            total = torch.logaddexp(lse[:, :, rows], norm)
            before, now = (lse[:, :, rows] - total).exp(), (norm - total).exp()
            out[:, :, rows] = out[:, :, rows] * before[..., None] + part * now[..., None]
            lse[:, :, rows] = total

        out = out.to(q.dtype)
        ctx.save_for_backward(q, kv, out, lse)
        ctx.how = context, ring
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        q, kv, out, lse = ctx.saved_tensors
        context, ring = ctx.how
        dq = torch.zeros_like(q, dtype=torch.float32)
        dkv = torch.zeros_like(kv, dtype=torch.float32)  # what the keys and values now here have gathered so far
        hop: _Hop | None = None
        group = q.shape[1] // kv.shape[2]

        for meeting in ring.turns(kv, group, context):
            rows, keys = meeting.rows, meeting.keys
            grad, queries, outputs, normalisers = (x[:, :, rows] for x in (grads[0], q, out, lse))
            parts = _attend_backward(grad, queries, outputs, normalisers, meeting)

            # taken only now: the gradients of these keys were on their way while this rank computed its own terms
            dkv = hop.wait() if hop else dkv
            dq[:, :, rows] += parts[0]
            for gathered, part in zip(dkv, parts[1:], strict=True):  # all queries of a group have a term
                gathered[:, :, keys] += part if group == 1 else torch.unflatten(part, 1, (-1, group)).sum(2)
            hop = _Hop(dkv, ring.axis)

        # one hop more than the keys had brings their gradients home; rounded once, when all terms are in
        assert hop
        return dq.to(q.dtype), hop.wait().to(kv.dtype), None, None


def _attend(q: Tensor, meeting: Meeting) -> tuple[Tensor, Tensor]:
    """Return attention to some of the keys, and the log of its normaliser: -inf where none is allowed."""
    _, _, k, v, _, causal = meeting
    if meeting.fused:
        kernel = _aten._scaled_dot_product_flash_attention
        if not q.is_cuda:
            kernel = _aten._scaled_dot_product_flash_attention_for_cpu
        out, lse, *_ = kernel(q, k, v, 0.0, causal)
        return out, lse

    scores = _scores(q, meeting)
    lse = scores.logsumexp(-1)
    return (scores - lse.clamp_min(torch.finfo(lse.dtype).min)[..., None]).exp().to(v.dtype) @ v, lse


def _attend_backward(grad: Tensor, q: Tensor, out: Tensor, lse: Tensor, meeting: Meeting) -> tuple[Tensor, ...]:
    """Return gradients of queries, keys and values by the output and the normaliser over the keys of all ranks."""
    _, _, k, v, _, causal = meeting
    if meeting.fused and not q.is_cuda:
        flash = _aten._scaled_dot_product_flash_attention_for_cpu_backward
        return tuple(flash(grad, q, k, v, out, lse, 0.0, causal))
    if meeting.fused:
        state = torch.zeros(2, dtype=torch.uint64, device=q.device)  # of dropout's generator, unused
        flash = _aten._scaled_dot_product_flash_attention_backward
        return tuple(flash(grad, q, k, v, out, lse, None, None, q.shape[2], k.shape[2], 0.0, causal, state, state[:0]))

    weights = (_scores(q, meeting) - lse[..., None]).exp()
    slope = grad.float() @ v.float().mT - (grad * out).float().sum(-1, keepdim=True)
    change = weights * slope / math.sqrt(q.shape[-1])
    return change @ k.float(), change.mT @ q.float(), weights.mT @ grad.float()


def _scores(q: Tensor, meeting: Meeting) -> Tensor:
    scores = q.float() @ meeting.k.float().mT / math.sqrt(q.shape[-1])
    if meeting.mask is not None:
        return scores.masked_fill(~meeting.mask, -math.inf)
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -math.inf) if meeting.causal else scores
