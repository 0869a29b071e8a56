"""What a checkpoint holds: weights, moments, and a few plain values. No generator state: there is none.

Everything is keyed by the parameter's name and knows its place in the whole, so it can be loaded under another layout.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from phalanx.errors import InputError
from phalanx.optimizer import OptimConfig, state_bytes
from phalanx.parallel.parameters import Parameters
from phalanx.precision.scale import LossScale
from phalanx.run import tree
from phalanx.run.shards import Place
from phalanx.runtime.on_all_ranks import gather_objects
from phalanx.train.guard import Guard
from phalanx.train.progress import Progress

State = dict[str, Any]


def capture(
    parameters: Parameters, optimizers: list[Optimizer], progress: Progress, scale: LossScale, guard: Guard
) -> State:
    """Return the state to save, also the template to load into: its tensors are those of the run, not copies."""
    return capture_weights(parameters, optimizers) | {
        "progress": progress.state_dict(),
        "scale": scale.state_dict(),
        "guard": guard.state_dict(),
    }


def capture_weights(parameters: Parameters, optimizers: list[Optimizer]) -> State:
    """Return the part of the state that another run may start from."""
    moments: dict[str, dict[str, Tensor]] = {}
    for optimizer in optimizers:
        moments |= {name: optimizer.state[p] for name, p in parameters.items() if p in optimizer.state}
    return {"model": {name: p.detach() for name, p in parameters.items()}, "optimizer": {"state": moments}}


def places(state: State, parameters: Parameters) -> dict[str, Place]:
    """Return where in the whole each tensor of a captured state lies: a moment lies as its parameter does."""
    captured_places, places_of = {}, parameters.places()
    for path, tensor in tree.split(state)[0].items():
        part, *middle, last = path.split("/")
        name = last if part == "model" else middle[-1]
        if tensor.shape == parameters[name].shape and tensor.ndim:
            captured_places[path] = places_of[name]
    return captured_places


def restore(state: State, progress: Progress, scale: LossScale, guard: Guard) -> None:
    """Take in the plain values of a state whose tensors were loaded in place."""
    progress.load_state_dict(state["progress"])
    scale.load_state_dict(state["scale"])
    guard.load_state_dict(state["guard"])


def check_state(optim: OptimConfig, made: Sequence[Optimizer], parameters: Parameters) -> None:
    """Raise InputError for a parameter that none of the optimizers `made` moves, or whose state a checkpoint could not
    hold, as they were built or after a step.
    """
    given = Counter(p for optimizer in made for group in optimizer.param_groups for p in group["params"])
    if left := [name for name, p in parameters.items() if p.requires_grad and not given[p]]:
        raise InputError(f"optim.name={optim.name}: build() gives torch no {left[0]}, which would never be trained")
    if twice := [name for name, p in parameters.items() if given[p] > 1]:
        raise InputError(f"optim.name={optim.name}: build() gives torch {twice[0]} twice; one optimizer is to move it")
    for name, p in parameters.items():
        state = {key: value for optimizer in made for key, value in optimizer.state.get(p, {}).items()}
        told = state_bytes(optim, parameters.description(name))
        if told and not state:
            wrong = "is not there when it is built, so no run could continue; make it in __init__"
        elif untold := [] if told else [key for key, value in state.items() if getattr(value, "ndim", 0)]:
            wrong = f"has {untold[0]}, and state() says that nothing is kept"
        else:
            wrong = _unfit(state, p, parameters.within.size)
        if wrong:
            raise InputError(f"optim.name={optim.name}: the state of {name} {wrong}")


def spoilt(parameters: Parameters) -> str:
    """Return the first weight that is not finite on any rank; "" where all are. Every rank calls this alike."""
    mine = next((name for name, p in parameters.items() if not p.detach().isfinite().all()), "")
    return next(filter(None, gather_objects(mine, dist.group.WORLD)), "")


def check_finite(optim: OptimConfig, parameters: Parameters, step: int, saved: int) -> None:
    """Raise InputError where weights are not finite after `step`, which are not to be saved; the newest checkpoint is
    of step `saved`, 0 if there is none. Every rank calls this alike.
    """
    if name := spoilt(parameters):
        newest = f"the newest checkpoint is of step {saved}" if saved else "there is no checkpoint yet"
        raise InputError(
            f"optim.name={optim.name}: after step {step} the weight {name} is not finite, and is not saved; {newest}. "
            "Train again with a lower optim.lr, or mend the optimizer if it is yours"
        )


def _unfit(state: dict[str, Any], p: Tensor, ranks: int) -> str:
    """Return what is wrong with a parameter's state, of which each of so many ranks has a part; "" if nothing is."""
    for key, value in state.items():
        if not isinstance(value, Tensor):
            return f"has {key}={value!r}; checkpoints hold tensors alone, as torch.zeros(()) for a count"
        if ranks > 1 and value.ndim and value.shape != p.shape:
            return f"has {key} of shape {[*value.shape]}, whose place in the whole nobody knows on this layout"
    return ""
