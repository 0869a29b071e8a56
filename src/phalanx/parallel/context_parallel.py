"""Context parallelism: every rank has a part of every sequence.

A causal row attends to all before it, so equal slices would leave the first rank idle: the sequence is cut into twice
as many chunks as ranks, and a rank takes one from the front and its mirror from the back. Either the keys and values
of all ranks are gathered (`layout.context=gather`), or they travel around (`ring`).
"""

from functools import partial

import torch
from torch import Tensor, nn

from phalanx.nn.answer import AnswerHead, Split
from phalanx.nn.attention import Attention
from phalanx.nn.batch import Batch
from phalanx.nn.transformer import Transformer
from phalanx.parallel import comm
from phalanx.parallel.mesh import Axis


def positions(length: int, ranks: int, rank: int) -> Tensor:
    """Return the positions of a sequence that a rank has, in order: int64 [length / ranks]."""
    chunks = torch.arange(length).chunk(2 * ranks)
    return torch.cat([chunks[rank], chunks[2 * ranks - 1 - rank]])


def slice_batch(batch: Batch, axis: Axis) -> Batch:
    """Return this rank's positions of every sequence. Questions about whole ones are asked where position 0 is."""
    if axis.size == 1:
        return batch
    mine = positions(batch.tokens.shape[1], axis.size, axis.rank).to(batch.tokens.device)
    part = batch.columns(mine)
    return part.unasked() if axis.rank else part


def gather_sequence(x: Tensor, axis: Axis) -> Tensor:
    """Return a tensor [batch, seq, …] with all positions in order, of which each rank has its own; without gradient."""
    return x if axis.size == 1 else _natural(comm.gathered(x, axis, dim=1), 1, axis)


def split_sequences(model: nn.Module, axis: Axis, kind: str) -> None:
    """Let every attention see all keys: gathered in their natural order, or as they come by in a ring."""
    if axis.size == 1:
        return
    from phalanx.parallel.ring import Ring  # imports torch's compiler, to keep it out

    gather = comm.conjugate("gather", axis, dim=2)
    sequence = comm.conjugate("gather", axis, dim=1)

    def keys(x: Tensor) -> Tensor:
        return _natural(gather(x), 2, axis)

    def together(x: Tensor) -> Tensor:
        return _natural(sequence(x), 1, axis)

    def total(x: Tensor) -> Tensor:
        return sequence(x[:, None]).sum(1)  # backward, every rank's part gets the sum of all gradients

    everywhere = partial(gather_sequence, axis=axis)
    ring = Ring(axis, partial(positions, ranks=axis.size))

    for module in model.modules():
        if isinstance(module, Transformer):
            module.everywhere, module.masked = everywhere, kind == "gather"
        elif isinstance(module, Attention) and kind == "gather":
            module.keys = keys
        elif isinstance(module, Attention):
            module.attend = ring
        elif isinstance(module, AnswerHead):
            module.split = Split(together, total, everywhere, axis.size)


def _natural(x: Tensor, dim: int, axis: Axis) -> Tensor:
    """Return the chunks of all ranks in the sequence's order: rank 0's first, rank 1's first, …, rank 0's second."""
    chunks = x.chunk(2 * axis.size, dim)
    return torch.cat([*chunks[::2], *chunks[::-1][::2]], dim)
