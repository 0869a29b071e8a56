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
from torch.optim import AdamW, Muon, Optimizer

from phalanx.config import OptimConfig
from phalanx.errors import InputError
from phalanx.parallel.parameters import Parameters
from phalanx.train.lamb import Lamb


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
    """Muon (Jordan et al., 2024) for the blocks' matrices, AdamW for embeddings, heads, biases and norms.

    The matrices' updates are scaled to AdamW's size (Liu et al., arXiv 2502.16982), so one learning rate serves both.
    """
    matrices = [name for name, p in parameters.items() if "blocks" in name.split(".") and p.ndim == 2]
    if not matrices:
        raise InputError("optim.name=muon finds no matrices under 'blocks' in this model; use adamw")
    kind = Muon if parameters.within.size == 1 else WholeMuon
    spectral = kind([parameters[n] for n in matrices], optim.lr, optim.weight_decay, adjust_lr_fn="match_rms_adamw")
    if isinstance(spectral, WholeMuon):
        spectral.parameters, spectral.names = parameters, matrices
    for name in matrices:
        spectral.state[parameters[name]] = {"momentum_buffer": torch.zeros_like(parameters[name])}
    return [spectral, _adamw([p for name, p in parameters.items() if name not in matrices], optim)]


class WholeMuon(Muon):
    """Muon of matrices that are split: the momentum stays in parts, the whole update is made orthogonal."""

    parameters: Parameters
    names: list[str]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        assert closure is None
        (group,) = self.param_groups
        for name, p in zip(self.names, group["params"], strict=True):
            if p.grad is None:
                continue
            momentum = self.state[p]["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
            update = self.parameters.whole(name, p.grad.lerp(momentum, group["momentum"]))
            matrix = nn.Parameter(torch.zeros_like(update))
            matrix.grad = update  # the whole's own step from zero, without momentum or decay
            Muon([matrix], group["lr"], 0.0, 0.0, False, adjust_lr_fn=group["adjust_lr_fn"]).step()  # type: ignore[no-untyped-call]
            p.mul_(1 - group["lr"] * group["weight_decay"]).add_(self.parameters.part(name, matrix))


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
