"""Optimizers as another package would bring them: `optim.name=tests.strangers.optimizers:Normed`."""

from collections.abc import Sequence

import torch
from torch.optim import Optimizer

from phalanx.optimizer import OptimConfig
from phalanx.parallel.parameters import Parameters
from phalanx.section import Fraction
from phalanx.spec.leaves import Parameter
from phalanx.train.optim import groups


class Normed(OptimConfig):
    """How the weights move: by their momentum, whose size in the whole matrix is taken out."""

    name: str = "tests.strangers.optimizers:Normed"
    momentum: Fraction = 0.9
    """How much of the momentum is left in a step."""

    def build(self, parameters: Parameters) -> list[Optimizer]:
        """Return torch's optimizers: one."""
        return [NormedSteps(parameters, self)]

    def state(self, parameter: Parameter) -> int:
        """Return the bytes of one momentum in fp32."""
        return 4

    def messages(self, parameters: Sequence[Parameter]) -> list[int]:
        """Return the elements of one sum over ranks: a norm of each parameter."""
        return [len(parameters)]


class NormedSteps(Optimizer):
    """Moves this rank's part of each parameter."""

    def __init__(self, parameters: Parameters, optim: Normed) -> None:
        super().__init__(groups(parameters, optim.weight_decay), {"lr": optim.lr})
        self.parameters, self.momentum = parameters, optim.momentum
        for p in parameters.values():
            self.state[p] = {"momentum": torch.zeros_like(p)}

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Update every parameter."""
        moved = {}
        for name, p in self.parameters.items():
            assert p.grad is not None
            moved[name] = self.state[p]["momentum"].lerp_(p.grad, 1 - self.momentum)
        norms = self.parameters.norms(moved)  # of the wholes, whoever holds which part
        names = {p: name for name, p in self.parameters.items()}
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * moved[names[p]] / norms[names[p]].clamp(min=1e-12))


class Silent(OptimConfig):
    """How the weights move: as torch's SGD has it, which says nothing of itself."""

    name: str = "tests.strangers.optimizers:Silent"
    momentum: Fraction = 0.0
    """Torch makes its buffers in the first step."""

    def build(self, parameters: Parameters) -> list[Optimizer]:
        """Return torch's SGD."""
        return [torch.optim.SGD(groups(parameters, self.weight_decay), self.lr, self.momentum)]


class Counted(Normed):
    """How the weights move: by a momentum beside which a step is counted, in a plain number."""

    name: str = "tests.strangers.optimizers:Counted"

    def build(self, parameters: Parameters) -> list[Optimizer]:
        """Return an optimizer whose state no checkpoint holds."""
        made = super().build(parameters)
        for state in made[0].state.values():
            state["steps"] = 0
        return made


class Factored(Normed):
    """How the weights move: by a momentum beside which there is a number for each row."""

    name: str = "tests.strangers.optimizers:Factored"

    def build(self, parameters: Parameters) -> list[Optimizer]:
        """Return an optimizer of whose rows nobody knows where they lie."""
        made = super().build(parameters)
        for p, state in made[0].state.items():
            state["rows"] = torch.zeros(len(p), 1)
        return made
