"""Muon (Jordan et al., 2024): a matrix moves by its momentum made orthogonal, which five products of a polynomial do.

Updates are scaled to the size of AdamW's (Liu et al., arXiv 2502.16982), so that one learning rate serves both.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from phalanx.parallel.parameters import Parameters
from phalanx.precision.gemm import native_bf16

MOMENTUM = 0.95  # with Nesterov's step, as Jordan et al.
STEPS, POLYNOMIAL = 5, (3.4445, -4.7750, 2.0315)  # of the iteration; theirs as well
SIZE = 0.2  # root mean square of AdamW's updates, by Liu et al.


class Muon(Optimizer):
    """Updates the matrices `names` of `parameters`. Where a matrix is split its momentum is too, and its update is put
    together before it is made orthogonal: in bf16 if the run's products are narrow and the device multiplies it.
    """

    def __init__(self, parameters: Parameters, names: Sequence[str], lr: float, weight_decay: float) -> None:
        matrices = [parameters[name] for name in names]
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})
        self.parameters, self.names = parameters, list(names)
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
            whole = orthogonal(self.parameters.whole(name, p.grad.lerp(momentum, MOMENTUM)).to(self.number))
            size = SIZE * math.sqrt(max(whole.shape))
            p.mul_(1 - group["lr"] * group["weight_decay"])
            p.add_(self.parameters.part(name, whole), alpha=-group["lr"] * size)


def orthogonal(matrix: Tensor) -> Tensor:
    """A matrix [m, n] with the same singular vectors and singular values near 1, by Newton's and Schulz's iteration."""
    x = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    x = x / x.norm().clamp(min=1e-7)
    a, b, c = POLYNOMIAL
    for _ in range(STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if len(matrix) <= matrix.shape[1] else x.T
