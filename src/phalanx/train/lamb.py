"""LAMB (You et al., arXiv 1904.00962) as NVIDIA's BERT recipe runs it.

Adam's moments with bias correction and averaged gradients; the update m̂ / (√v̂ + eps) + decay × p; a trust ratio
‖p‖ / ‖update‖ for each tensor that decays, 1 where either norm is zero, never clamped. The gradient is clipped to a
global norm before, by the trainer.

Norms are those of whole tensors, whoever holds which part. One difference from NVIDIA's code is left: the query, key
and value weights of a block are one tensor here and share their ratio.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from phalanx.parallel.parameters import Parameters


class Lamb(Optimizer):
    """Parameter groups with weight_decay 0 take plain Adam steps. `parameters` knows the norms of the wholes."""

    def __init__(
        self, parameters: Parameters, groups: Iterable[Any], lr: float, betas: tuple[float, float], eps: float
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self.parameters, self.names = parameters, {p: name for name, p in parameters.items()}
        for p in parameters.values():
            moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            self.state[p] = {"step": torch.zeros(()), **moments}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient. The gradient's memory becomes the update's."""
        assert closure is None
        for group in self.param_groups:
            updates = {self.names[p]: self._update(p, p.grad, group) for p in group["params"] if p.grad is not None}
            ratios = self._ratios(updates) if group["weight_decay"] and updates else {}
            for name, update in updates.items():
                self.parameters[name].sub_(update.mul_(ratios.get(name, 1.0) * group["lr"]))

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[p]
        beta1, beta2 = group["betas"]
        state["step"] += 1
        step = state["step"].item()
        mean = state["exp_avg"].lerp_(grad, 1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        root = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
        update = torch.div(mean, root, out=grad).div_(1 - beta1**step)
        return update.add_(p, alpha=group["weight_decay"])

    def _ratios(self, updates: dict[str, Tensor]) -> dict[str, Any]:
        sizes = self.parameters.norms({name: self.parameters[name] for name in updates})
        changes = self.parameters.norms(updates)
        sound = {name: (sizes[name] > 0) & (changes[name] > 0) for name in updates}
        return {name: torch.where(sound[name], sizes[name] / changes[name], 1.0) for name in updates}
