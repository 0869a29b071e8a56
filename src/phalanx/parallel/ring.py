"""Ring attention: keys and values travel from rank to rank, and nobody ever has all of them (arXiv 2310.01889).

A rank attends to the keys it has while the next ones are on their way, and merges what it finds by the softmaxes'
normalisers. Backward sends the keys around again, and with them the gradients that they have gathered so far. The
zigzag slices of `context` leave every rank the same work: of an earlier rank's keys all queries see the first half, of
a later one's the second half of the queries sees all. Within a window only some ranks' keys are seen: the others' are
passed over, and queries meet the keys near them, some rows at a time.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from phalanx.nn.attention import Context, within
from phalanx.parallel import windows
from phalanx.parallel.mesh import Axis
from phalanx.parallel.windows import Window

_ALL = slice(None)
_aten = torch.ops.aten


class Tile(NamedTuple):
    """A tile of the scores: some of a rank's queries, and the keys and values of one rank that they see."""

    rows: slice  # of the queries
    keys: slice  # of the other rank's
    k: Tensor  # [batch, heads, those keys, d]: of a group of queries that share a key head a copy each
    v: Tensor
    mask: Tensor | None  # bool [batch, 1, rows, keys], where documents end inside a sequence
    causal: bool  # whether only the past is seen

    @property
    def fused(self) -> bool:
        """Whether torch has a kernel for this tile that gives the normalisers too."""
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

    def turns(self, kv: Tensor, group: int, context: Context) -> Iterator[tuple[Iterator[Tile], int]]:
        """Yield the tiles of each rank whose keys are seen, this rank's own first, while keys and values [2,
        batch, kv_heads, seq, d], each of which a `group` of queries shares, go around; and how many ranks further they
        go then, with what they have gathered.
        """
        ranks = self.axis.size
        steps: Sequence[int] = range(ranks)
        if context.window:
            steps = windows.steps(ranks, kv.shape[3], Window(context.window, context.causal))

        for step, following in pairwise([*steps, ranks]):
            # sent before they are attended to here, so that the message hides behind the compute
            hop = _Hop(kv, self.axis, following - step) if following < ranks else None
            yield self._tiles((self.axis.rank - step) % ranks, kv, group, context), following - step
            if hop:
                kv = hop.wait()

    def _tiles(self, source: int, kv: Tensor, group: int, context: Context) -> Iterator[Tile]:
        """Yield the tiles in which this rank's queries see keys of the rank `source`, which are in `kv`."""
        seq, causal = kv.shape[3], context.causal
        mask = None if context.documents is None else self._mask(source, context)
        for rows, keys, past in self._seen(source, seq, context):
            part = None if mask is None else mask[:, :, rows, keys]
            if context.window:
                length, device = seq * self.axis.size, kv.device
                own, theirs = (self.positions(length, rank=rank)[None] for rank in (self.axis.rank, source))
                close = within(own[:, rows].to(device), theirs[:, keys].to(device), context.window, causal)[:, None]
                part = close if part is None else part & close
            k, v = (x[:, :, keys].repeat_interleave(group, 1) if group > 1 else x[:, :, keys] for x in kv)
            yield Tile(rows, keys, k, v, part, past)

    def _seen(self, source: int, seq: int, context: Context) -> Iterator[tuple[slice, slice, bool]]:
        """Yield which queries see which keys of the rank `source`, and whether only past ones."""
        if not context.window:
            yield self.seen(source, seq, context.causal)
            return
        window = Window(context.window, context.causal)
        for rows, keys in windows.near(self.axis.rank, source, self.axis.size, seq, window):
            yield rows, keys, False  # what is seen of these says a mask

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
    """A message under way: gives `x` to the rank so much `further` on an axis, and takes that of the rank as far
    behind.
    """

    def __init__(self, x: Tensor, axis: Axis, further: int) -> None:
        self.sent, self.received = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
        self.works = dist.batch_isend_irecv([
            dist.P2POp(dist.isend, self.sent, group=axis.group, group_peer=(axis.rank + further) % axis.size),
            dist.P2POp(dist.irecv, self.received, group=axis.group, group_peer=(axis.rank - further) % axis.size),
        ])  # fmt: skip

    def wait(self) -> Tensor:
        """Wait for the tensors that come from there, and return them."""
        for work in self.works:
            work.wait()
        return self.received


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, context: Context, ring: Ring) -> Tensor:
        # in fp32, as they are rescaled and added to once for every rank
        out = torch.zeros_like(q, dtype=torch.float32)
        lse = torch.full(q.shape[:-1], -math.inf, dtype=torch.float32, device=q.device)  # log of the softmax's sum

        for tiles, _ in ring.turns(kv, q.shape[1] // kv.shape[2], context):
            for tile in tiles:
                rows = tile.rows
                part, norm = _attend(q[:, :, rows], tile)
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

        for tiles, further in ring.turns(kv, group, context):
            terms = []
            for tile in tiles:
                grad, queries, outputs, normalisers = (x[:, :, tile.rows] for x in (grads[0], q, out, lse))
                change, *parts = _attend_backward(grad, queries, outputs, normalisers, tile)
                dq[:, :, tile.rows] += change
                terms.append((tile.keys, parts))

            # taken only now: the gradients of these keys were on their way while this rank computed its own terms
            dkv = hop.wait() if hop else dkv
            for keys, parts in terms:
                for gathered, part in zip(dkv, parts, strict=True):  # all queries of a group have a term
                    gathered[:, :, keys] += part if group == 1 else torch.unflatten(part, 1, (-1, group)).sum(2)
            hop = _Hop(dkv, ring.axis, further) if further < ring.axis.size else None

        # one hop more than the keys had brings their gradients home; rounded once, when all terms are in
        dkv = hop.wait() if hop else dkv
        return dq.to(q.dtype), dkv.to(kv.dtype), None, None


def _attend(q: Tensor, tile: Tile) -> tuple[Tensor, Tensor]:
    """Return attention to some of the keys, and the log of its normaliser: -inf where none is allowed."""
    k, v, causal = tile.k, tile.v, tile.causal
    if tile.fused:
        kernel = _aten._scaled_dot_product_flash_attention
        if not q.is_cuda:
            kernel = _aten._scaled_dot_product_flash_attention_for_cpu
        out, lse, *_ = kernel(q, k, v, 0.0, causal)
        return out, lse

    scores = _scores(q, tile)
    lse = scores.logsumexp(-1)
    return (scores - lse.clamp_min(torch.finfo(lse.dtype).min)[..., None]).exp().to(v.dtype) @ v, lse


def _attend_backward(grad: Tensor, q: Tensor, out: Tensor, lse: Tensor, tile: Tile) -> tuple[Tensor, ...]:
    """Return gradients of queries, keys and values by the output and the normaliser over the keys of all ranks."""
    k, v, causal = tile.k, tile.v, tile.causal
    if tile.fused and not q.is_cuda:
        flash = _aten._scaled_dot_product_flash_attention_for_cpu_backward
        return tuple(flash(grad, q, k, v, out, lse, 0.0, causal))
    if tile.fused:
        state = torch.zeros(2, dtype=torch.uint64, device=q.device)  # of dropout's generator, unused
        flash = _aten._scaled_dot_product_flash_attention_backward
        return tuple(flash(grad, q, k, v, out, lse, None, None, q.shape[2], k.shape[2], 0.0, causal, state, state[:0]))

    weights = (_scores(q, tile) - lse[..., None]).exp()
    slope = grad.float() @ v.float().mT - (grad * out).float().sum(-1, keepdim=True)
    change = weights * slope / math.sqrt(q.shape[-1])
    return change @ k.float(), change.mT @ q.float(), weights.mT @ grad.float()


def _scores(q: Tensor, tile: Tile) -> Tensor:
    scores = q.float() @ tile.k.float().mT / math.sqrt(q.shape[-1])
    if tile.mask is not None:
        return scores.masked_fill(~tile.mask, -math.inf)
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -math.inf) if tile.causal else scores
