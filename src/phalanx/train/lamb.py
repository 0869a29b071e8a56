"""LAMB (You et al., arXiv 1904.00962) as NVIDIA's BERT recipe runs it.

Adam's moments with bias correction and averaged gradients; the update m̂ / (√v̂ + eps) + decay × p; a trust ratio
‖p‖ / ‖update‖ for each tensor that decays, 1 where either norm is zero, never clamped. The gradient is clipped to a
global norm before, by the trainer.

One difference from NVIDIA's code is left: the query, key and value weights of a block are one tensor here and share
their ratio.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Lamb(Optimizer):
    """Parameter groups with weight_decay 0 take plain Adam steps."""

    def __init__(self, params: Iterable[Any], lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        for group in self.param_groups:
            for p in group["params"]:
                moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                self.state[p] = {"step": torch.zeros(()), **moments}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        beta1, beta2 = group["betas"]
        state["step"] += 1
        step = state["step"].item()
        mean = state["exp_avg"].lerp_(grad, 1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        root = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
        update = (mean / (1 - beta1**step)).div_(root)
        ratio: Tensor | float = 1.0
        if group["weight_decay"]:
            update.add_(parameter, alpha=group["weight_decay"])
            size, change = torch.linalg.vector_norm(parameter), torch.linalg.vector_norm(update)
            ratio = torch.where((size > 0) & (change > 0), size / change, 1.0)
        parameter.sub_(update.mul_(ratio * group["lr"]))
