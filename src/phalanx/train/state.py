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
    return capture_weights(model, optimizers) | {
        "progress": progress.state_dict(),
        "scale": scale.state_dict(),
        "guard": guard.state_dict(),
    }


def capture_weights(model: nn.Module, optimizers: list[Optimizer]) -> dict[str, Any]:
    """The part of the state that another run may start from."""
    return {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizers)}


def restore(
    state: dict[str, Any],
    model: nn.Module,
    optimizers: list[Optimizer],
    progress: Progress,
    scale: LossScale,
    guard: Guard,
) -> None:
    """Put a loaded state back."""
    set_model_state_dict(model, state["model"])
    set_optimizer_state_dict(model, optimizers, state["optimizer"])
    progress.load_state_dict(state["progress"])
    scale.load_state_dict(state["scale"])
    guard.load_state_dict(state["guard"])


def start_from(state: dict[str, Any], model: nn.Module, optimizers: list[Optimizer]) -> None:
    """Take weights and moments of another run. The optimizer's settings stay, and its count of steps begins anew with
    the learning rate, as in the second phase of NVIDIA's BERT recipe."""
    settings = get_optimizer_state_dict(model, optimizers)["param_groups"]
    for moments in state["optimizer"]["state"].values():
        if "step" in moments:
            moments["step"].zero_()
    set_model_state_dict(model, state["model"])
    set_optimizer_state_dict(model, optimizers, {"state": state["optimizer"]["state"], "param_groups": settings})
