"""Matrix products and look-ups whose weights name their logical axes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from phalanx.nn import slots
from phalanx.nn.slots import Slot
from phalanx.spec.leaves import Matrix, Table


class Linear(nn.Module):
    """A matrix product: y = leave(gemm(enter(x), W)) + b. `axes` names (input, output); a layout maps them to the mesh.

    Where the outputs are split, `enter` gathers or copies the input to all ranks, once for every such Linear. Products
    that share an input are therefore best fused into one matrix (`spec.leaves.Fused`), as q, k and v are.
    """

    def __init__(self, part: Matrix) -> None:
        super().__init__()
        self.axes, self.std = (part.inputs.axis, part.outputs.axis), part.std
        self.weight = nn.Parameter(torch.empty(part.outputs.stored, part.inputs.size))
        self.bias = nn.Parameter(torch.empty(part.outputs.size)) if part.bias else None
        self.enter: Slot = slots.same
        self.leave: Slot = slots.same
        self.gemm = slots.gemm

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., outputs] of x [..., inputs]."""
        x = self.enter(x)
        if self.leave is slots.same:
            return self.gemm(x, self.weight, self.bias)
        y = self.leave(self.gemm(x, self.weight))
        return y if self.bias is None else y + self.bias  # after the sum over ranks, or it would count once for each


class Embedding(nn.Module):
    """A table of `count` rows. `start` is the first that this rank holds: others' count as zero until `leave` sums."""

    def __init__(self, part: Table) -> None:
        super().__init__()
        self.axes, self.std, self.start, self.count = (part.rows.axis, part.hidden.axis), part.std, 0, part.rows.size
        self.weight = nn.Parameter(torch.empty(part.rows.stored, part.hidden.size))
        self.leave: Slot = slots.same

    def forward(self, rows: Tensor) -> Tensor:
        """Return [..., hidden] of rows int64 [...]."""
        if self.leave is slots.same:
            return F.embedding(rows, self.weight)
        local = rows - self.start
        held = (local >= 0) & (local < self.weight.shape[0])
        return self.leave(F.embedding(torch.where(held, local, 0), self.weight) * held[..., None])
