"""Optimizers by name, what decays, and gradient clipping.

A builder takes the parameters by name and the [optim] section and returns a list: most are one optimizer, Muon is two.
Moments are there from the start, also those of a parameter that never gets a gradient, so that every checkpoint of a
run holds the same tensors.
"""

from collections.abc import Callable
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from phalanx.config import OptimConfig
from phalanx.errors import InputError
from phalanx.parallel.parameters import Parameters
from phalanx.train.lamb import Lamb
from phalanx.train.muon import Muon


def adamw(parameters: Parameters, optim: OptimConfig) -> list[Optimizer]:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101), fused."""
    return [_adamw(list(parameters.values()), optim)]


def _adamw(parameters: list[nn.Parameter], optim: OptimConfig) -> Optimizer:
    groups = _groups(parameters, optim.weight_decay)
    optimizer = Uncompiled(groups, optim.lr, (optim.beta1, optim.beta2), optim.eps, fused=True)
    for p in parameters:
        moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        optimizer.state[p] = {"step": torch.zeros((), device=p.device), **moments}
    return optimizer


class Uncompiled(AdamW):
    """torch's, with methods that are not wrapped in a message to torch's compiler, which would be imported for it and
    takes as long as torch itself.
    """

    add_param_group = unwrap(AdamW.add_param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        assert closure is None
        unwrap(AdamW.step)(self)


def lamb(parameters: Parameters, optim: OptimConfig) -> list[Optimizer]:
    """LAMB, for batches of tens of thousands."""
    groups = _groups(list(parameters.values()), optim.weight_decay)
    return [Lamb(parameters, groups, optim.lr, (optim.beta1, optim.beta2), optim.eps)]


def muon(parameters: Parameters, optim: OptimConfig) -> list[Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings, heads, biases and norms."""
    matrices = [name for name, p in parameters.items() if "blocks" in name.split(".") and p.ndim == 2]
    if not matrices:
        raise InputError("optim.name=muon finds no matrices under 'blocks' in this model; use adamw")
    rest = [p for name, p in parameters.items() if name not in matrices]
    return [Muon(parameters, matrices, optim.lr, optim.weight_decay), _adamw(rest, optim)]


def _groups(parameters: list[nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and norms do not."""
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def clip(parameters: Parameters, square: Tensor, limit: float, scale: float = 1.0) -> Tensor:
    """Divide the gradients, whose squared norm over the whole model is `square`, by `scale` and clip their norm to
    `limit` (0: no limit); the norm before clipping.

    Where the norm is not finite nothing is clipped: nobody may use these gradients, but the guard wants to see which of
    them are to blame.
    """
    norm = square.sqrt() / scale
    factor = torch.ones_like(norm)
    if limit:
        factor = torch.where(norm.isfinite(), (limit / norm).clamp(max=1.0), factor)
    parameters.scale_gradients(factor / scale)
    return norm
