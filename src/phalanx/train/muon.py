"""Muon (Jordan et al., 2024): a matrix moves by its momentum made orthogonal, which five steps of a polynomial do.

Updates are scaled to the size of AdamW's (Liu et al., arXiv 2502.16982), so that one learning rate serves both.

Queries, keys and values are one matrix here, and so are a gate and what it gates. By default such a matrix is made
orthogonal as one, as its runs of before were; Muon's authors take q, k and v apart, which `split_fused` does.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

from phalanx.errors import InputError
from phalanx.parallel.parameters import Parameters
from phalanx.precision.gemm import native_bf16
from phalanx.spec.leaves import Dim

MOMENTUM = 0.95  # with Nesterov's step, as Jordan et al.
POLYNOMIAL = 3.4445, -4.7750, 2.0315  # theirs as well
SIZE = 0.2  # root mean square of AdamW's updates, by Liu et al.


class Muon(Optimizer):
    """Updates the matrices of layers among `parameters`. Where a matrix is split its momentum is too, and its update is
    put together before it is made orthogonal: in bf16 if the run's products are narrow and the device multiplies it.
    InputError where there are no such matrices.
    """

    def __init__(
        self, parameters: Parameters, lr: float, weight_decay: float, steps: int, split_fused: bool = False
    ) -> None:
        self.parameters, self.steps, self.split_fused = parameters, steps, split_fused
        self.names = [name for name in parameters if parameters.description(name).role == "matrix"]
        if not self.names:
            raise InputError("optim.name=muon finds no matrices in layers of this model; use adamw")
        matrices = [parameters[name] for name in self.names]
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})
        narrow = parameters.dtype != "fp32" and native_bf16(matrices[0].device)
        self.number = torch.bfloat16 if narrow else torch.float32
        for p in matrices:
            self.state[p] = {"momentum_buffer": torch.zeros_like(p)}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        assert closure is None
        (group,) = self.param_groups
        for name, p in zip(self.names, group["params"], strict=True):
            if p.grad is None:
                continue
            momentum = self.state[p]["momentum_buffer"].lerp_(p.grad, 1 - MOMENTUM)
            update, scale = self._orthogonal(name, self.parameters.whole(name, p.grad.lerp(momentum, MOMENTUM)))
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(self.parameters.part(name, update), alpha=-group["lr"] * scale)

    def _orthogonal(self, name: str, update: Tensor) -> tuple[Tensor, float]:
        """Return the orthogonal matrix of a whole update, or those of its fused parts, and what to multiply it by."""
        rows = self.parameters.description(name).dims[0]
        if not (self.split_fused and rows.fused):
            return orthogonal(update.to(self.number), self.steps), size(update)

        updates = torch.empty_like(update)  # in fp32: each part has a factor of its own
        for part, into in zip(parts(update, rows), parts(updates, rows), strict=True):
            matrix = part.flatten(0, 1).to(self.number)
            into.copy_(orthogonal(matrix, self.steps).float().mul_(size(matrix)).view_as(into))
        return updates, 1.0


def parts(matrix: Tensor, rows: Dim) -> list[Tensor]:
    """Return views [units, size, columns] of the parts that are fused in the rows of a matrix [rows, columns]."""
    units = matrix.view(rows.units, rows.size // rows.units, -1)
    return list(torch.split(units, [part.size for part in rows.fused], dim=1))


def size(matrix: Tensor) -> float:
    """Return what an orthogonal matrix is multiplied by to be as large as an update of AdamW's."""
    return SIZE * math.sqrt(max(matrix.shape))


def orthogonal(matrix: Tensor, steps: int) -> Tensor:
    """Return a matrix [m, n] with the same singular vectors and singular values near 1: so many `steps` of Newton's and
    Schulz's iteration.
    """
    x = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    x = x / x.norm().clamp(min=1e-7)
    a, b, c = POLYNOMIAL
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if len(matrix) <= matrix.shape[1] else x.T
