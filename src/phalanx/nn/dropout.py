"""Dropout that is the same on every layout and stores nothing.

The mask is a hash of (seed, step, site, row, position, column), so backward draws it again instead of keeping it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from phalanx.nn import random, slots
from phalanx.nn.slots import Slot


def _dropped(x: Tensor, rows: Tensor, drop: float) -> Tensor:
    return x * random.keep(rows, x.shape[-1], drop).to(x.dtype).mul_(1 / (1 - drop))


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, drop: float) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.drop = drop
        return _dropped(x, rows, drop)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        return _dropped(grads[0], rows, ctx.drop), None, None


class Dropout(nn.Module):
    """Dropout: zeroes elements with probability `drop` while training and scales the rest by 1 / (1 - drop).

    `site` tells one dropout of the model from another. It is a buffer, not a Python int, so that blocks which differ in
    nothing else share one compiled graph. `rows` lets a layout take its part of the coordinates.
    """

    site: Tensor

    def __init__(self, drop: float, site: int) -> None:
        super().__init__()
        self.drop, self.number = drop, site
        self.register_buffer("site", torch.empty((), dtype=torch.int32), persistent=False)
        self.rows: Slot = slots.same
        self.reset()

    def reset(self) -> None:
        """Write the site's number into its buffer (again, after the buffer was materialised empty)."""
        self.site.fill_(self.number)

    def forward(self, x: Tensor, index: Tensor, key: Tensor) -> Tensor:
        """Drop elements of x [batch, seq, hidden] at global coordinates `index` [batch, seq] under `key` [batch]."""
        if not self.training or self.drop == 0:
            return x
        rows = random.rows(self.rows(index), key, self.site)
        dropped: Tensor = _Drop.apply(x, rows, self.drop)  # type: ignore[no-untyped-call]
        return dropped
