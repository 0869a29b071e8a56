"""Two curves beside each other, and whether they are one."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Bounds(NamedTuple):
    """The largest difference of a loss, and of a gradient norm relative to its size."""

    loss: float
    norm: float


# What rounding may make of a few steps on another layout: sums are taken in another order, and the narrow numbers round
# each product to 8 (bf16), 11 (fp16) or 4 (fp8) binary digits. Gradients feel it more than losses.
BOUNDS = {"fp32": Bounds(1e-4, 1e-3), "bf16": Bounds(1e-2, 1e-1), "fp16": Bounds(1e-2, 1e-1), "fp8": Bounds(5e-2, 2e-1)}


class Point(NamedTuple):
    """What a step told. A step that overflowed has a norm that is not finite."""

    loss: float
    norm: float


class Gap(NamedTuple):
    """A difference, and the 1-based step it was seen at."""

    size: float
    step: int


@dataclass(frozen=True)
class Comparison:
    """Two curves of the same steps, with their names; `dtype` is the numbers of the matrix products."""

    names: tuple[str, str]
    curves: tuple[Sequence[Point], Sequence[Point]]
    dtype: str

    @property
    def bounds(self) -> Bounds:
        """The largest differences that are taken for rounding."""
        return BOUNDS[self.dtype]

    @property
    def losses(self) -> list[float]:
        """Differences of the losses by step."""
        return self._gaps(lambda one, other: abs(one.loss - other.loss))

    @property
    def norms(self) -> list[float]:
        """Differences of the gradient norms by step, relative to the first curve's; none where both overflowed."""
        return self._gaps(lambda one, other: _relative(one.norm, other.norm))

    @property
    def agree(self) -> bool:
        """Whether the curves are one, to rounding. A loss that is not finite agrees with nothing."""
        bounds = self.bounds
        return all(gap <= bounds.loss for gap in self.losses) and all(gap <= bounds.norm for gap in self.norms)

    def lines(self) -> Iterator[str]:
        """The curves side by side, the largest differences and the verdict."""
        one, other = self.names
        width = max(11, len(one), len(other))
        yield f"{'':>5}  {'loss':^{2 * width + 13}}  {'gradient norm':^{2 * width + 13}}".rstrip()
        yield f"{'step':>5}" + 2 * f"  {one:>{width}}  {other:>{width}}  {'differ':>9}"
        for step, (a, b, loss, norm) in enumerate(zip(*self.curves, self.losses, self.norms, strict=True), 1):
            yield (
                f"{step:>5}  {a.loss:>{width}.6f}  {b.loss:>{width}.6f}  {loss:>9.1e}"
                f"  {a.norm:>{width}.6f}  {b.norm:>{width}.6f}  {norm:>9.1e}"
            )
        far, steep = largest(self.losses), largest(self.norms)
        yield (
            f"largest difference: loss {far.size:.1e} at step {far.step}, gradient norm {steep.size:.1e} of its size "
            f"at step {steep.step}; {self.dtype} allows {self.bounds.loss:.0e} and {self.bounds.norm:.0e}"
        )
        if self.agree:
            yield "the curves agree"
        else:
            hint = "" if self.dtype == "fp32" else "; precision.dtype=fp32 tells an error from rounding"
            yield f"the curves do NOT agree: {other} is not to be trusted{hint}"

    def _gaps(self, gap: Callable[[Point, Point], float]) -> list[float]:
        return [gap(one, other) for one, other in zip(*self.curves, strict=True)]


def largest(gaps: Sequence[float]) -> Gap:
    """The largest difference, and where; one that is not finite is larger than all others."""
    place = max(range(len(gaps)), key=lambda i: gaps[i] if math.isfinite(gaps[i]) else math.inf)
    return Gap(gaps[place], place + 1)


def _relative(one: float, other: float) -> float:
    if not math.isfinite(one) and not math.isfinite(other):
        return 0.0
    return abs(one - other) / max(abs(one), 1e-30)
