"""Optimizers by name, what decays, and gradient clipping.

A builder takes the model and the [optim] section and returns a list: most are one optimizer, Muon is two.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from phalanx.config import OptimConfig
from phalanx.train.lamb import Lamb


def adamw(model: nn.Module, optim: OptimConfig) -> list[Optimizer]:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101), fused."""
    return [_adamw(list(model.parameters()), optim)]


def _adamw(parameters: list[nn.Parameter], optim: OptimConfig) -> Optimizer:
    return AdamW(_groups(parameters, optim.weight_decay), optim.lr, (optim.beta1, optim.beta2), optim.eps, fused=True)


def lamb(model: nn.Module, optim: OptimConfig) -> list[Optimizer]:
    """LAMB, for batches of tens of thousands."""
    groups = _groups(list(model.parameters()), optim.weight_decay)
    return [Lamb(groups, optim.lr, (optim.beta1, optim.beta2), optim.eps)]


def muon(model: nn.Module, optim: OptimConfig) -> list[Optimizer]:
    """Muon (Jordan et al., 2024) for the blocks' matrices, AdamW for embeddings, heads, biases and norms.

    The matrices' updates are scaled to AdamW's size (Liu et al., arXiv 2502.16982), so one learning rate serves both.
    """
    named = dict(model.named_parameters())
    matrices = [p for name, p in named.items() if ".blocks." in name and p.ndim == 2]
    rest = [p for name, p in named.items() if not (".blocks." in name and p.ndim == 2)]
    spectral = torch.optim.Muon(matrices, optim.lr, optim.weight_decay, adjust_lr_fn="match_rms_adamw")
    return [spectral, _adamw(rest, optim)]


def _groups(parameters: list[nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and norms do not."""
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


@torch.no_grad()
def clip(parameters: Sequence[nn.Parameter], limit: float, scale: float = 1.0) -> Tensor:
    """Divide the gradients by `scale` and clip their global 2-norm to `limit` (0: no limit); the norm before clipping.

    One pass for the norm and one multiplication: a norm that is not finite leaves gradients that nobody may use.
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads) / scale
    factor = torch.ones_like(norm) / scale
    if limit:
        factor = factor * (limit / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(grads, factor)
    return norm
