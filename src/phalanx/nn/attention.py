"""Multi-head attention with its arithmetic in a slot.

`attend` is torch's fused attention until something better fills it: ring attention over a context-parallel group, a
faster kernel, or, with dropout of the probabilities, the plain formula that keeps the same-loss promise.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phalanx.nn import random, slots
from phalanx.nn.linear import Linear
from phalanx.nn.norm import Norm, optional_norm
from phalanx.nn.rotary import Turn, rotated
from phalanx.nn.slots import Slot
from phalanx.spec import model


@dataclass(frozen=True)
class Context:
    """The coordinates of a batch and who may attend to whom: all that a block needs beside the residual stream."""

    index: Tensor  # int64 [batch, seq]
    key: Tensor  # int32 [batch]
    mask: Tensor | None  # bool [batch, 1, seq, keys], True where attention is allowed; None: all, or all that is past
    causal: bool
    documents: Tensor | None = None  # int32 [batch, keys], where attention stays within equal numbers
    cu_seqlens: Tensor | None = None  # int32 [sequences + 1], of a packed batch: 0, then where each sequence ends
    max_seqlen: int = 0  # tokens of these sequences at most
    turn: Turn | None = None  # by which queries and keys are rotated, where their positions are told so
    window: int = 0  # keys at a distance of so many positions or more are not seen; 0: all are
    cache: Any = None  # of a decoder: where keys and values of these tokens go and earlier ones lie (infer/kv_cache.py)


def within(rows: Tensor, keys: Tensor, window: int, causal: bool) -> Tensor:
    """Return who sees whom by distance alone: bool [batch, rows, keys] of positions int64 [batch, rows] and [batch,
    keys].
    """
    rows, keys = rows[:, :, None], keys[:, None, :]
    last = rows if causal else rows + (window - 1)
    return (keys > rows - window) & (keys <= last)


Attend = Callable[[Tensor, Tensor, Tensor, Context], Tensor]


def fused(q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
    """Compute softmax(q kᵀ / sqrt(d)) v in one kernel; q [batch, heads, seq, d], k and v [batch, kv_heads, keys, d]."""
    k, v = _as_taken(q, k, v, context)
    causal, grouped = context.causal and context.mask is None, q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=context.mask, is_causal=causal, enable_gqa=grouped)


def _as_taken(q: Tensor, k: Tensor, v: Tensor, context: Context) -> tuple[Tensor, Tensor]:
    """Return keys and values as torch's fused kernels take them: a copy for each query of a group where there is a
    mask, and in fp32. (Else its slowest kernel would be chosen, which writes all scores down.)
    """
    group = q.shape[1] // k.shape[1]
    if group == 1 or (context.mask is None and q.dtype != torch.float32):
        return k, v
    return k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)


class Dropping(nn.Module):
    """Attention by its formula, with stateless dropout of the probabilities: exact on every layout, slower."""

    site: Tensor

    def __init__(self, drop: float, site: int) -> None:
        super().__init__()
        self.drop, self.number, self.first_head = drop, site, 0
        self.register_buffer("site", torch.empty((), dtype=torch.int32), persistent=False)
        self.reset()

    def reset(self) -> None:
        """Write the site's number into its buffer."""
        self.site.fill_(self.number)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
        """Compute `fused` attention, with dropout of the probabilities while training."""
        if not self.training:
            return fused(q, k, v, context)
        if (group := q.shape[1] // k.shape[1]) > 1:
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)

        # fp32 from here to the probabilities: a softmax in half precision loses what is unlikely
        scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(q.shape[-1])  # [batch, heads, seq, seq]
        mask = context.mask
        if mask is None and context.causal:
            mask = context.index[:, None, :, None] >= context.index[:, None, None, :]
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)

        # the mask hashes global coordinates, the head's too, so that it is the same whichever ranks hold which heads
        head = torch.arange(self.first_head, self.first_head + q.shape[1], dtype=torch.int32, device=q.device)
        row = random.rows(context.index, context.key, self.site)[:, None, :]
        kept = random.keep(random.mix(row ^ random.mix(head)[:, None]), k.shape[2], self.drop)
        return (torch.where(kept, scores.softmax(-1) / (1 - self.drop), 0)).to(v.dtype) @ v


class Attention(nn.Module):
    """Self-attention. The queries of a group, their key and their value lie together: a slice of the weight is whole
    groups. `keys` collects the keys and values of a sequence that is split over devices.
    """

    def __init__(self, part: model.Attention, site: int) -> None:
        super().__init__()
        self.width, self.group = part.width, part.heads // part.kv_heads
        leaves: Any = dict(part.leaves())
        self.qkv, self.out = (Linear(matrix) for _, matrix in part.matrices())
        self.q_norm, self.k_norm = optional_norm(leaves.get("q_norm")), optional_norm(leaves.get("k_norm"))
        self.by_head = part.normed == "head"
        self.gain = part.scale * math.sqrt(part.width) if part.scale else 1.0  # every kernel divides by sqrt(width)
        self.prepares = self.q_norm is not None or self.gain != 1
        self.keys: Slot = slots.same
        self.attend: Attend = Dropping(part.drop, site) if part.drop else fused

    def attend_by(self, attend: Attend) -> None:
        """Have `attend` computed in the slot, which may hold a module: a function cannot be assigned over one."""
        del self.attend
        self.attend = attend

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Return [batch, seq, hidden] of x [batch, seq, hidden]."""
        joined = self.qkv(x)
        batch, seq, _ = joined.shape
        groups = joined.view(batch, seq, -1, self.group + 2, self.width).transpose(1, 2)  # [batch, kv_heads, seq, …]
        q, k, v = groups[..., : self.group, :].transpose(2, 3).flatten(1, 2), groups[..., -2, :], groups[..., -1, :]
        if self.prepares:
            q, k, v = self._normed(q, self.q_norm), self._normed(k, self.k_norm), v.contiguous()
            q = q * self.gain
        if context.turn is not None:  # v is copied, or it would keep all of `joined` for backward
            q, k, v = rotated(q, context.turn), rotated(k, context.turn), v.contiguous()

        y = self.attend(q, self.keys(k), self.keys(v), context)
        return self.out(y.transpose(1, 2).reshape(batch, seq, -1))  # type: ignore[no-any-return]

    def _normed(self, x: Tensor, norm: Norm | None) -> Tensor:
        """Return x [batch, heads, seq, width] normed, each head for itself or all heads of a token together."""
        if norm is None:
            return x
        if self.by_head:
            return norm(x).to(x.dtype)  # type: ignore[no-any-return]
        together = norm(x.transpose(1, 2).flatten(2))
        return together.unflatten(2, (x.shape[1], -1)).transpose(1, 2).to(x.dtype)  # type: ignore[no-any-return]
