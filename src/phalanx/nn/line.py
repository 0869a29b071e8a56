"""A batch without its padding: the tokens of all rows one after another, so that products and norms see nothing else,
and attention is told where each sequence ends (the unpadding of MLPerf's BERTs).

Coordinates travel with the tokens, so dropout and positions are those of the batch.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from phalanx.nn.attention import Attend, Context
from phalanx.nn.batch import Batch

STEP = 64  # tokens to which a line is rounded up, with padding that attends to itself


class Line:
    """`batch` [1, tokens] of the rows of another, and `context` for its blocks."""

    def __init__(self, rows: Batch, causal: bool) -> None:
        document = torch.zeros_like(rows.tokens, dtype=torch.int32) if rows.document is None else rows.document
        padding, (height, width) = document.flatten() < 0, rows.tokens.shape
        count = min(-(-max(1, int((~padding).sum())) // STEP) * STEP, height * width)
        self.kept = padding.byte().argsort(stable=True)[:count]
        row, number = self.kept // width, document.flatten()[self.kept]
        new = torch.ones_like(row, dtype=torch.bool)
        new[1:] = (row[1:] != row[:-1]) | (number[1:] != number[:-1])
        ends = torch.cat([new.nonzero()[:, 0], torch.tensor([count], device=row.device)]).int()
        cut = rows.tokens, rows.index, rows.segment
        tokens, index, segment = (None if x is None else x.flatten()[self.kept][None] for x in cut)
        assert tokens is not None and index is not None
        self.batch = Batch(tokens, index, rows.key[:1], segment=segment)
        self.context = Context(index, self.batch.key, None, causal, None, ends, width)
        self.shape = height, width

    def back(self, x: Tensor) -> Tensor:
        """x [1, tokens, hidden] -> [batch, seq, hidden], 0 at the padding that was left out"""
        height, width = self.shape
        return x.new_zeros(height * width, x.shape[2]).index_copy(0, self.kept, x[0]).view(height, width, -1)


def apart(attend: Attend, q: Tensor, k: Tensor, v: Tensor, context: Context) -> Tensor:
    """Attention within each sequence of a line, all [1, heads, tokens, width]: by one kernel where there is one, else
    by `attend`, one by one.
    """
    assert context.ends is not None
    if q.is_cuda and q.dtype != torch.float32:
        return within(q, k, v, context.ends, context.longest, context.causal)
    lengths = context.ends.diff().tolist()
    cut = [torch.split(x, lengths, 2) for x in (q, k, v)]
    indices = torch.split(context.index, lengths, 1)
    own = (Context(index, context.key, None, context.causal) for index in indices)
    found = [attend(*parts) for parts in zip(*cut, own, strict=True)]
    return torch.cat(found, 2)


def within(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, longest: int, causal: bool = False) -> Tensor:
    """Attention by a kernel that is told on the GPU where sequences end (Dao, arXiv 2307.08691): fp16 or bf16, all
    [1, heads, tokens, width], `ends` int32 [sequences + 1], from 0 on. Of tokens past the last end nothing that means
    anything.
    """
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    y: Any = varlen_attn(
        q, k, v, ends, ends, longest, longest, window_size=(-1, 0 if causal else -1), enable_gqa=grouped
    )
    return y.transpose(0, 1)[None]  # type: ignore[no-any-return]


def kernel_takes(device: torch.device, width: int) -> bool:
    """Whether `within` is there for heads of a width: it is flash attention, of Ampere and later."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    return width % 8 == 0 and width <= 256


def line_up(model: Any) -> None:
    """Let a model whose layers are all here leave padding out. Dropout of attention goes by places in the row: there
    it cannot.
    """
    model.transformer.lined = True
    for block in model.transformer.blocks.values():
        assert not isinstance(block.attention.attend, nn.Module)
        block.attention.attend = partial(apart, block.attention.attend)
