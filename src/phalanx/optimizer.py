"""The interface of optimizers: an [optim] section makes torch's optimizers and says what they keep, compute and send.

It is known by its name in the registry, or by "module:Name". The planner asks it before there is any tensor, so a
section says what it costs by the parameters of a model's description; torch is imported where `build` wants it.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import NonNegativeFloat, PositiveFloat

from phalanx import registry
from phalanx.errors import InputError
from phalanx.section import Section, shadowed

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from phalanx.spec.leaves import Parameter

WEIGHT = 4  # bytes of an element: weights are fp32, and so is what is summed over ranks
Product = tuple[int, int, int]  # m, n and k of a product of an [m, k] with a [k, n] matrix


class OptimConfig(Section):
    """How the weights move."""

    # The keys that all optimizers have. An optimizer is a subclass with its own keys and what is below them.
    name: str
    """Optimizer: adamw, lamb, muon, or module:Name; `phalanx train --help optim.name=NAME` lists its keys."""
    lr: PositiveFloat = 3e-4
    """Peak learning rate."""
    min_lr: NonNegativeFloat = 0.0
    """Learning rate the decay ends at."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay; never applied to biases and norms."""
    clip: NonNegativeFloat = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    schedule: Literal["constant", "linear", "polynomial", "cosine", "wsd"] = "cosine"
    """Decay of the learning rate after the warm-up; wsd holds it until the last decay_steps (arXiv 2404.06395)."""
    power: PositiveFloat = 0.5
    """Degree of the polynomial decay."""
    warmup: NonNegativeFloat = 0.0
    """Linear warm-up: steps, or a fraction of train.steps when below 1."""
    decay_steps: NonNegativeFloat = 0.0
    """wsd: the run's last steps, in which the rate decays, or a fraction of train.steps when below 1; 0: it holds."""
    decay_shape: Literal["linear", "cosine", "1-sqrt"] = "linear"
    """wsd: form of the decay; 1-sqrt falls fast at first (arXiv 2405.18392)."""

    def build(self, parameters: Any) -> "list[Optimizer]":
        """Return torch's optimizers of this rank's parameters; the trainer sets the `lr` of their groups in each step.

        Their state is there from the start, in tensors: a checkpoint holds those that lie as their parameter does, and
        numbers []. One that keeps none says so by `state`.
        """
        raise InputError(f"optim.name={self.name}: it has no build(), which makes torch's optimizers")

    def state(self, parameter: "Parameter") -> int:
        """Return the bytes of state that it keeps of each element of a parameter."""
        raise InputError(f"optim.name={self.name} does not say what state it keeps; give it a state()")

    def messages(self, parameters: "Sequence[Parameter]") -> list[int]:
        """Return the elements, in fp32, of each all-reduce of a step over the ranks that share `parameters`, which are
        those of a rank's stages.
        """
        raise InputError(f"optim.name={self.name} does not say what it sends; give it a messages()")

    def products(self, parameter: "Parameter") -> list[Product]:
        """Return the matrix products of a step for a parameter, which every rank computes that holds a part of it."""
        return []

    def moved(self, parameter: "Parameter") -> int:
        """Return the bytes that a step reads and writes for each element of a parameter, its gradient not counted: of
        its weight and state, once, if it says nothing else.
        """
        return 2 * (WEIGHT + state_bytes(self, parameter))


def optimizer_of(name: str) -> type[OptimConfig]:
    """Return the class of an optimizer's [optim] section. InputError where there is no such optimizer."""
    section = registry.OPTIMIZERS.find(name)
    if not (isinstance(section, type) and issubclass(section, OptimConfig)):
        raise InputError(f"optim.name={name} is no subclass of phalanx.optimizer.OptimConfig")
    if reason := shadowed(section, OptimConfig):
        raise InputError(f"optim.name={name}: its key {reason}")
    return section


def build(optim: OptimConfig, parameters: Any) -> "list[Optimizer]":
    """Return what an optimizer's `build` makes. InputError where that is no list of torch's optimizers."""

    def fits(made: Any) -> bool:
        from torch.optim import Optimizer

        return isinstance(made, list) and all(isinstance(each, Optimizer) for each in made)

    made = _asked(optim, "build", parameters, fits, "a list of torch's optimizers")
    return cast("list[Optimizer]", made)


def state_bytes(optim: OptimConfig, parameter: "Parameter") -> int:
    """Return what `state` says of a parameter. InputError where that is no number of bytes."""
    return cast(int, _asked(optim, "state", parameter, _is_count, "a whole number of bytes"))


def messages(optim: OptimConfig, parameters: "Sequence[Parameter]") -> list[int]:
    """Return what `messages` says of parameters. InputError where that is no list of whole numbers."""
    return cast(list[int], _asked(optim, "messages", parameters, _are_counts, "a list of whole numbers"))


def products(optim: OptimConfig, parameter: "Parameter") -> list[Product]:
    """Return what `products` says of a parameter. InputError where that is no list of sizes m, n and k."""

    def fits(found: Any) -> bool:
        return isinstance(found, list) and all(
            isinstance(each, tuple) and len(each) == 3 and _are_counts([*each]) for each in found
        )

    return cast(list[Product], _asked(optim, "products", parameter, fits, "a list of tuples (m, n, k)"))


def _asked(optim: OptimConfig, method: str, about: Any, fits: Callable[[Any], bool], wanted: str) -> Any:
    """Return what a method of an optimizer gives, which is to be what `fits` says and the words `wanted`."""
    if ":" not in optim.name:  # one of ours, which a search asks thousands of times
        return getattr(optim, method)(about)
    with registry.blamed("optim.name", optim.name, f"{method}()"):
        given = getattr(optim, method)(about)
    if not fits(given):
        raise InputError(f"optim.name={optim.name}: {method}() gave {type(given).__name__} {given!r:.60}, not {wanted}")
    return given


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(map(_is_count, values))
