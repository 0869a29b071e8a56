"""What a checkpoint holds: weights, moments, and a few plain values. No generator state: there is none.

The optimizer's state is keyed by parameter names (torch.distributed.checkpoint.state_dict), so that it can be loaded
under another layout.
"""

from typing import Any

from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from phalanx.precision.scale import LossScale
from phalanx.train.guard import Guard
from phalanx.train.progress import Progress


def capture(
    model: nn.Module, optimizers: list[Optimizer], progress: Progress, scale: LossScale, guard: Guard
) -> dict[str, Any]:
    """The state to save, and the template to load into."""
    return {
        "model": model.state_dict(),
        "optimizer": get_optimizer_state_dict(model, optimizers),
        "progress": progress.state_dict(),
        "scale": scale.state_dict(),
        "guard": guard.state_dict(),
    }


def restore(
    state: dict[str, Any],
    model: nn.Module,
    optimizers: list[Optimizer],
    progress: Progress,
    scale: LossScale,
    guard: Guard,
) -> None:
    """Put a loaded state back."""
    restore_weights(state, model, optimizers)
    progress.load_state_dict(state["progress"])
    scale.load_state_dict(state["scale"])
    guard.load_state_dict(state["guard"])


def restore_weights(state: dict[str, Any], model: nn.Module, optimizers: list[Optimizer]) -> None:
    """Put back weights and moments only."""
    set_model_state_dict(model, state["model"])
    set_optimizer_state_dict(model, optimizers, state["optimizer"])
