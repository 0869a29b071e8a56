"""Optimizers by name, what decays, and gradient clipping.

A builder takes the model and the [optim] section and returns a list: most are one optimizer, Muon is two. Moments are
there from the start, also those of a parameter that never gets a gradient, so that every checkpoint of a run holds the
same tensors.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from phalanx.config import OptimConfig
from phalanx.errors import InputError
from phalanx.train.lamb import Lamb


def adamw(model: nn.Module, optim: OptimConfig) -> list[Optimizer]:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101), fused."""
    return [_adamw(list(model.parameters()), optim)]


def _adamw(parameters: list[nn.Parameter], optim: OptimConfig) -> Optimizer:
    groups = _groups(parameters, optim.weight_decay)
    optimizer = AdamW(groups, optim.lr, (optim.beta1, optim.beta2), optim.eps, fused=True)
    for p in parameters:
        moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        optimizer.state[p] = {"step": torch.zeros((), device=p.device), **moments}
    return optimizer


def lamb(model: nn.Module, optim: OptimConfig) -> list[Optimizer]:
    """LAMB, for batches of tens of thousands."""
    groups = _groups(list(model.parameters()), optim.weight_decay)
    return [Lamb(groups, optim.lr, (optim.beta1, optim.beta2), optim.eps)]


def muon(model: nn.Module, optim: OptimConfig) -> list[Optimizer]:
    """Muon (Jordan et al., 2024) for the blocks' matrices, AdamW for embeddings, heads, biases and norms.

    The matrices' updates are scaled to AdamW's size (Liu et al., arXiv 2502.16982), so one learning rate serves both.
    """
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        (matrices if "blocks" in name.split(".") and p.ndim == 2 else rest).append(p)
    if not matrices:
        raise InputError(f"optim.name=muon finds no matrices under 'blocks' in {type(model).__name__}; use adamw")
    spectral = Muon(matrices, optim.lr, optim.weight_decay, adjust_lr_fn="match_rms_adamw")
    for p in matrices:
        spectral.state[p] = {"momentum_buffer": torch.zeros_like(p)}
    return [spectral, _adamw(rest, optim)]


def _groups(parameters: list[nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and norms do not."""
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


@torch.no_grad()
def clip(parameters: Sequence[nn.Parameter], limit: float, scale: float = 1.0) -> Tensor:
    """Divide the gradients by `scale` and clip their global 2-norm to `limit` (0: no limit); the norm before clipping.

    One pass for the norm and one multiplication. Where the norm is not finite nothing is clipped: nobody may use these
    gradients, but the guard wants to see which of them are to blame.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads) / scale
    factor = torch.ones_like(norm)
    if limit:
        factor = torch.where(norm.isfinite(), (limit / norm).clamp(max=1.0), factor)
    torch._foreach_mul_(grads, factor / scale)
    return norm
