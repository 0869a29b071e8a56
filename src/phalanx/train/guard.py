"""No NaN reaches the weights, and a run that produces nothing else ends with a reason.

A step whose loss or gradient norm is not finite is skipped and counted. The norm is one number over all gradients, so
looking at it costs nothing. After too many in a row the run stops, and only then is the culprit searched for.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from phalanx.runtime.on_all_ranks import gather_objects


class Guard:
    """Counts skipped steps; `exhausted` after `limit` bad ones in a row."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bad = 0  # in a row
        self.skipped = 0  # in all

    def check(self, loss: float, grad_norm: float, overflow: bool = False) -> bool:
        """Whether the step may reach the weights. An `overflow` that a lower loss scale will mend is not a bad step."""
        good = math.isfinite(loss) and math.isfinite(grad_norm)
        if good:
            self.bad = 0
        else:
            self.skipped += 1
            self.bad += not overflow
        return good

    @property
    def exhausted(self) -> bool:
        """Whether the run should stop."""
        return self.bad >= self.limit

    def diagnose(self, model: nn.Module, forward: Callable[[], Any]) -> str:
        """What went wrong and where, in a line. `forward` runs the model on the data of the failed step; the gradients
        are still those of that step. All ranks of a run call this alike, and get the same answer: what is nearest to
        the cause on any of them.
        """
        origin, passed_on = _bad_output(model, forward)
        suspects = [_bad_parameter(model), origin, passed_on, _bad_gradient(model), "nowhere on a second look"]
        nearest = next((order, where) for order, where in enumerate(suspects) if where)
        order, where = min(gather_objects(nearest, dist.group.WORLD), key=lambda suspect: suspect[0])
        then = (
            "The weights are as before those steps, and saved. Look at that batch of data, or start a new run from "
            "them by train.init=RUN, with a lower optim.lr or a longer optim.warmup"
        )
        if order == 0:  # a weight
            then = "A step of the optimizer wrote that; it is not saved, and the last checkpoint is from before it"
        return f"{self.bad} steps in a row had a NaN or infinite loss or gradient; not finite first: {where}. {then}"

    def state_dict(self) -> dict[str, int]:
        """Plain values for a checkpoint."""
        return {"bad": self.bad, "skipped": self.skipped}

    def load_state_dict(self, values: dict[str, int]) -> None:
        """Take the values of a checkpoint."""
        self.bad, self.skipped = values["bad"], values["skipped"]


def _bad_parameter(model: nn.Module) -> str:
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"the weight {name}"
    return ""


def _bad_gradient(model: nn.Module) -> str:
    """Backward runs from the last module to the first and spoils all that it passes: the last is where it began."""
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"the gradient of {name}"
    return ""


def _bad_output(model: nn.Module, forward: Callable[[], Any]) -> tuple[str, str]:
    """The first module, in order of execution and innermost first, whose output is not finite: one whose input was,
    or one whose input was not either.
    """
    found: list[tuple[str, str]] = []

    def look(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and not _finite(output):
                where = f"the output of {name}"
                found.append((where, "") if _finite(inputs) else ("", f"{where}, whose input was not finite either"))

        return hook

    handles = [module.register_forward_hook(look(name or "the model")) for name, module in model.named_modules()]
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ("", "")


def _finite(tree: Any) -> bool:
    tensors = [t for t in tree_leaves(tree) if isinstance(t, Tensor) and t.is_floating_point()]
    return all(t.isfinite().all() for t in tensors)
