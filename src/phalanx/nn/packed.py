"""Packed batches: sequences of any lengths one after another in one row, so that nothing is computed for padding (the
unpadding of MLPerf's BERTs). Training and inference make the same type, and attention learns from the context alone
where sequences end.

Coordinates travel with the tokens, so dropout and positions are those of the rows that were packed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from phalanx.nn.attention import Attend, Attention, Context, within
from phalanx.nn.batch import Batch

STEP = 64  # tokens to which packed rows are rounded up, with padding that attends to itself


@dataclass(frozen=True)
class PackedBatch:
    """Sequences one after another, and where each of them ends. `cu_seqlens` lies where attention reads it: on the GPU
    for `attend_varlen`, on the CPU for `attend_each`.
    """

    batch: Batch  # of one row: [1, tokens]
    cu_seqlens: Tensor  # int32 [sequences + 1]: 0, then where each sequence ends
    max_seqlen: int  # tokens of a sequence at most
    kept: Tensor | None = None  # int64 [tokens]: their numbers in the rows that were packed
    shape: torch.Size | None = None  # [batch, seq] of these rows

    @classmethod
    def of(
        cls, tokens: Tensor, index: Tensor, cu_seqlens: Tensor, max_seqlen: int, segment: Tensor | None = None
    ) -> "PackedBatch":
        """Make a batch for inference, of whole numbers [tokens]; `index` is each token's position in its sequence."""
        key = torch.zeros(1, dtype=torch.int32, device=tokens.device)
        batch = Batch(tokens[None], index[None], key, segment=None if segment is None else segment[None])
        return cls(batch, cu_seqlens, max_seqlen)

    def context(self, causal: bool, cache: Any = None) -> Context:
        """Return what the blocks need of this batch, and of the `cache` that its attention looks into."""
        index, key, ends, longest = self.batch.index, self.batch.key, self.cu_seqlens, self.max_seqlen
        return Context(index, key, None, causal, cu_seqlens=ends, max_seqlen=longest, cache=cache)

    def means(self, x: Tensor) -> Tensor:
        """Return the mean over the tokens of each sequence, [sequences, hidden], of x [1, tokens, hidden]."""
        ends = self.cu_seqlens.to(x.device)
        whose = torch.bucketize(torch.arange(x.shape[1], device=x.device), ends[1:], right=True)
        totals = x.new_zeros(len(ends), x.shape[2]).index_add(0, whose, x[0])  # the last is of what fills up
        return totals[:-1] / ends.diff().clamp(min=1)[:, None]

    def unpack(self, x: Tensor) -> Tensor:
        """Return x [1, tokens, hidden] as the rows that were packed, [batch, seq, hidden], 0 where padding was."""
        assert self.kept is not None and self.shape is not None
        return x.new_zeros(self.shape.numel(), x.shape[2]).index_copy(0, self.kept, x[0]).view(*self.shape, -1)


def pack(rows: Batch) -> PackedBatch:
    """Leave out the padding of rows [batch, seq]; documents of a row become sequences of their own."""
    document = torch.zeros_like(rows.tokens, dtype=torch.int32) if rows.document is None else rows.document
    padding, (height, width) = document.flatten() < 0, rows.tokens.shape
    count = min(-(-max(1, int((~padding).sum())) // STEP) * STEP, height * width)
    kept = padding.byte().argsort(stable=True)[:count]

    row, number = kept // width, document.flatten()[kept]
    new = torch.ones_like(row, dtype=torch.bool)
    new[1:] = (row[1:] != row[:-1]) | (number[1:] != number[:-1])
    ends = torch.cat([new.nonzero()[:, 0], torch.tensor([count], device=row.device)]).int()

    present = rows.tokens, rows.index, rows.segment, rows.place
    tokens, index, segment, place = (None if x is None else x.flatten()[kept][None] for x in present)
    assert tokens is not None and index is not None
    return PackedBatch(
        Batch(tokens, index, rows.key[:1], segment=segment, place=place), ends, width, kept, rows.tokens.shape
    )


def attend_varlen(q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
    """Attend within each sequence of a packed batch by one kernel, which reads on the GPU where they end (Dao, arXiv
    2307.08691): fp16 or bf16, q [1, heads, tokens, width], k and v [1, kv_heads, tokens, width].

    What it gives for tokens past the last end means nothing.
    """
    from torch.nn.attention.varlen import varlen_attn

    ends, longest = context.cu_seqlens, context.max_seqlen
    assert ends is not None

    q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    reach = context.window - 1  # to either side; -1 is all
    window = reach, 0 if context.causal else reach
    y: Any = varlen_attn(q, k, v, ends, ends, longest, longest, window_size=window, enable_gqa=grouped)
    return y.transpose(0, 1)[None]  # type: ignore[no-any-return]


def attend_each(attend: Attend, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
    """Attend within each sequence of a packed batch by `attend`, in one call for those of one length that stand
    together: q [1, heads, tokens, width], k and v [1, kv_heads, tokens, width].
    """
    assert context.cu_seqlens is not None

    parts = []
    for start, length, count in _runs(context.cu_seqlens.tolist()):
        part = (x.narrow(2, start, length * count) for x in (q, k, v))
        if count > 1:
            part = (x.reshape(x.shape[1], count, length, -1).transpose(0, 1) for x in part)
        queries, keys, values = part
        mask = None
        if 0 < context.window < length:
            place = torch.arange(length, device=q.device)[None]
            mask = within(place, place, context.window, context.causal)[:, None]
        y = attend(queries, keys, values, replace(context, mask=mask))  # reads no coordinates where it drops nothing
        parts.append(y if count == 1 else y.transpose(0, 1).flatten(1, 2)[None])
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _runs(ends: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield where sequences of one length begin, that length, and how many of them stand together."""
    first = 0
    for i in range(1, len(ends)):
        length = ends[i] - ends[i - 1]
        if i + 1 == len(ends) or ends[i + 1] - ends[i] != length:
            yield ends[first], length, i - first
            first = i


def has_varlen(device: torch.device, width: int) -> bool:
    """Return whether `attend_varlen` is there for heads of a width: it is flash attention, of Ampere and later."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    return width % 8 == 0 and width <= 256


def enable_packing(model: Any, kernel: bool) -> None:
    """Let a model whose layers are all here compute packed batches, and pack the rows that it is given. Attention is by
    `attend_varlen`, the `kernel`, or else sequence by sequence.
    """
    model.transformer.packs = True
    for module in model.modules():
        if isinstance(module, Attention):
            attend = module.attend
            assert not (module.training and isinstance(attend, nn.Module)), "its dropout goes by places in the row"
            module.attend_by(attend_varlen if kernel else partial(attend_each, attend))
