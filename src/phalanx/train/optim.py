"""Torch's side of optimizers: what decays, AdamW, state that checkpoints can hold, and gradient clipping."""

from collections.abc import Callable, Set
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from phalanx.parallel.parameters import Parameters
from phalanx.spec.leaves import DECAYING, Role

Groups = list[dict[str, Any]]


def fused_adamw(groups: Groups, lr: float, betas: tuple[float, float], eps: float) -> Optimizer:
    """Return torch's AdamW. Parameters that never get a gradient have moments too: all checkpoints hold the same."""
    optimizer = FusedAdamW(groups, lr, betas, eps, fused=True)
    for p in (p for group in groups for p in group["params"]):
        moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        optimizer.state[p] = {"step": torch.zeros((), device=p.device), **moments}
    return optimizer


class FusedAdamW(AdamW):
    """torch's, with methods that are not wrapped in a message to torch's compiler, which would be imported for it and
    takes as long as torch itself.
    """

    add_param_group = unwrap(AdamW.add_param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        unwrap(AdamW.step)(self)


def groups(parameters: Parameters, decay: float, without: Set[Role] = frozenset()) -> Groups:
    """Return torch's parameter groups: what decays by its role, and what does not; none of the roles in `without`."""
    roles = {p: role for name, p in parameters.items() if (role := parameters.description(name).role) not in without}
    decaying, others = ([p for p, role in roles.items() if (role in DECAYING) == decays] for decays in (True, False))
    rates = (decaying, decay), (others, 0.0)
    return [{"params": members, "weight_decay": rate} for members, rate in rates if members]


def clip(parameters: Parameters, square: Tensor, limit: float, scale: float = 1.0) -> Tensor:
    """Divide the gradients, whose squared norm over the whole model is `square`, by `scale` and clip their norm to
    `limit` (0: no limit); the norm before clipping.

    Where it is not finite nothing is clipped: the guard wants to see which gradients are to blame.
    """
    norm = square.sqrt() / scale
    factor = torch.ones_like(norm)
    if limit:
        factor = torch.where(norm.isfinite(), (limit / norm).clamp(max=1.0), factor)
    parameters.scale_gradients(factor / scale)
    return norm
