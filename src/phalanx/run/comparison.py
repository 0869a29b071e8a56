"""Two curves beside each other, and whether they are one.

Rounding is all that may part them: sums are taken in another order on another layout. What it makes of a loss depends
on how steep the run is, as each step multiplies the differences of the steps before. One process that takes its batches
in other micro-batches differs from itself by rounding too, and so shows how far curves of this run may part.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple


class Bounds(NamedTuple):
    """The largest difference of a loss, and of a gradient norm relative to its size."""

    loss: float
    norm: float


# What rounding may make of a few steps of any run: the narrow numbers round each product to 8 (bf16), 11 (fp16) or 4
# (fp8) binary digits. Gradients feel it more than losses.
BOUNDS = {"fp32": Bounds(1e-4, 1e-3), "bf16": Bounds(1e-2, 1e-1), "fp16": Bounds(1e-2, 1e-1), "fp8": Bounds(5e-2, 2e-1)}

# How much farther than one process's own micro-batches a layout may be: these change the order of few sums only, a
# layout that of all. Steep runs were mostly 4 times as far, and never 10 times.
FARTHER = 30

# What is never taken for rounding, however steep a run is: losses beyond so many times BOUNDS, and norms beyond so much
# of their size. A mistake could be as large.
LOSS_CEILING, NORM_CEILING = 10, 0.5


class Point(NamedTuple):
    """Loss and gradient norm of a step. A step that overflowed has a norm that is not finite."""

    loss: float
    norm: float


Points = Sequence[Point]


class Gap(NamedTuple):
    """A difference, and the 1-based step it was seen at."""

    size: float
    step: int


@dataclass(frozen=True)
class Comparison:
    """Two curves of the same steps, with their names; `dtype` is the numbers of the matrix products.

    `others` are the first curve again, by its micro-batches in sequences.
    """

    names: tuple[str, str]
    curves: tuple[Points, Points]
    dtype: str
    others: Mapping[int, Points] = field(default_factory=dict)

    @cached_property
    def losses(self) -> list[float]:
        """Differences of the losses by step."""
        return _losses(*self.curves)

    @cached_property
    def norms(self) -> list[float]:
        """Differences of the gradient norms by step, relative to the first curve's; none where both overflowed."""
        return _norms(*self.curves)

    @cached_property
    def spread(self) -> list[Bounds]:
        """Largest difference, by step, of the first curve from the same run in other micro-batches; empty without such
        a run.
        """
        first, others = self.curves[0], self.others.values()
        losses, norms = (_most([gaps(first, curve) for curve in others], len(first)) for gaps in (_losses, _norms))
        return [Bounds(*both) for both in zip(losses, norms, strict=True)]

    @cached_property
    def explained(self) -> list[Bounds]:
        """The differences that rounding may have made, by step: BOUNDS, and in steep runs FARTHER times the spread, of
        losses and of norms apart, up to the step after: differences that grow a hundredfold a step may come a step
        earlier on a layout.
        """
        rising = list(accumulate(self.spread, lambda first, second: Bounds(*map(max, first, second))))
        least = BOUNDS[self.dtype]
        return [
            Bounds(max(least.loss, FARTHER * own.loss), max(least.norm, FARTHER * own.norm))
            for own in [*rising[1:], rising[-1]]
        ]

    @cached_property
    def ceiling(self) -> Bounds:
        """The largest differences with which curves may agree."""
        return Bounds(LOSS_CEILING * BOUNDS[self.dtype].loss, NORM_CEILING)

    @cached_property
    def allowed(self) -> list[Bounds]:
        """The differences with which the curves agree, by step: what rounding explains, up to the ceiling."""
        return [Bounds(*map(min, most, self.ceiling)) for most in self.explained]

    @property
    def agree(self) -> bool:
        """Whether the curves are one, to rounding. A loss that is not finite agrees with nothing."""
        return self._within(self.allowed)

    @property
    def undecided(self) -> bool:
        """Whether the curves do not agree, though rounding explains it: no mistake shows, nor that there is none."""
        return not self.agree and self._within(self.explained)

    @property
    def steep(self) -> bool:
        """Whether one process differs so much from itself that more than BOUNDS is allowed."""
        return self.allowed[-1] != BOUNDS[self.dtype]

    def _within(self, most: Sequence[Bounds]) -> bool:
        gaps = zip(self.losses, self.norms, most, strict=True)
        return all(loss <= bound.loss and norm <= bound.norm for loss, norm, bound in gaps)

    def lines(self) -> Iterator[str]:
        """Yield the curves side by side, what is allowed where that grows, the largest differences and the verdict."""
        first, second = self.names
        width, last = max(11, len(first), len(second)), 11 * self.steep
        yield f"{'':>5}  {'loss':^{2 * width + 13 + last}}  {'gradient norm':^{2 * width + 13 + last}}".rstrip()
        allowed = f"  {'allowed':>9}" * self.steep
        yield f"{'step':>5}" + 2 * f"  {first:>{width}}  {second:>{width}}  {'differ':>9}{allowed}"

        rows = zip(*self.curves, self.losses, self.norms, self.allowed, strict=True)
        for step, (a, b, loss, norm, most) in enumerate(rows, 1):
            ends = [f"  {bound:>9.1e}" * self.steep for bound in most]
            yield (
                f"{step:>5}  {a.loss:>{width}.6f}  {b.loss:>{width}.6f}  {loss:>9.1e}{ends[0]}"
                f"  {a.norm:>{width}.6f}  {b.norm:>{width}.6f}  {norm:>9.1e}{ends[1]}"
            )

        far, apart, least = largest(self.losses), largest(self.norms), BOUNDS[self.dtype]
        yield (
            f"largest difference: loss {far.size:.1e} at step {far.step}, gradient norm {apart.size:.1e} of its size "
            f"at step {apart.step}; {self.dtype} allows {least.loss:.0e} and {least.norm:.0e}"
        )
        if self.others:
            sizes, (loss, norm) = " and ".join(map(str, self.others)), map(max, zip(*self.spread, strict=True))
            yield (
                f"{first} in micro-batches of {sizes} differs from itself by {loss:.1e} and {norm:.1e}; "
                f"what is allowed grows to {FARTHER} times that, but not beyond {self.ceiling.loss:.0e} and "
                f"{self.ceiling.norm:.0e}"
            )
        yield self._verdict()

    def _verdict(self) -> str:
        """Return the verdict as a sentence."""
        first, second = self.names
        if self.agree and not self.steep:
            return "the curves agree"
        if self.agree:
            return (
                f"the curves agree, within {FARTHER} times of what {first} differs from itself; these steps are steep, "
                "and with a smaller optim.lr a mistake shows better"
            )
        if self.undecided:
            return (
                f"too steep to tell: {second} is within {FARTHER} times of what {first} differs from itself, but that "
                "is so much that a mistake would not show; lower optim.lr or take fewer --steps"
            )

        hint = "" if self.dtype == "fp32" else "; precision.dtype=fp32 tells an error from rounding"
        return f"the curves do NOT agree: {second} is not to be trusted{hint}"


def largest(gaps: Sequence[float]) -> Gap:
    """Return the largest difference, and where; one that is not finite is larger than all others."""
    place = max(range(len(gaps)), key=lambda i: gaps[i] if math.isfinite(gaps[i]) else math.inf)
    return Gap(gaps[place], place + 1)


def _most(curves: Sequence[Sequence[float]], steps: int) -> list[float]:
    """Return the largest of several curves' finite differences, by step."""
    return [max((gaps[i] for gaps in curves if math.isfinite(gaps[i])), default=0.0) for i in range(steps)]


def _losses(first: Points, second: Points) -> list[float]:
    return [abs(a.loss - b.loss) for a, b in zip(first, second, strict=True)]


def _norms(first: Points, second: Points) -> list[float]:
    return [_relative(a.norm, b.norm) for a, b in zip(first, second, strict=True)]


def _relative(first: float, second: float) -> float:
    if not math.isfinite(first) and not math.isfinite(second):
        return 0.0
    return abs(first - second) / max(abs(first), 1e-30)
