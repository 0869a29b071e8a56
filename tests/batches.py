"""Batches for tests: tokens with the coordinates of rows counted from zero."""

import torch
from torch import Tensor

from phalanx.nn.batch import Batch


def batch_of(tokens: Tensor, positions: int, key: int = 0, **rest: Tensor | None) -> Batch:
    """The batch of `tokens` [batch, seq] for a model of so many positions."""
    rows, seq = tokens.shape
    index = torch.arange(rows)[:, None] * positions + torch.arange(seq)
    return Batch(tokens, index, torch.full((rows,), key, dtype=torch.int32), **rest)
