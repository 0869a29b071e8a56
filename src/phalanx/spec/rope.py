"""Rotary position embeddings: their frequencies."""

import math
from dataclasses import dataclass
from typing import Literal

# Kinds of scaling that go by periods in the original length, with their usual bounds (`low` and `high`).
BOUNDS = {"llama3": (1.0, 4.0), "yarn": (1.0, 32.0)}


def yarn_magnitude(factor: float, scale: float = 1.0) -> float:
    """Return what yarn multiplies cosines and sines by (arXiv 2309.00071, section 3.4), `scale` times as strongly."""
    return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding (arXiv 2104.09864) of the first `width` numbers of a head.

    Number i of the first half turns with number i of the second, by `frequencies()[i]` radians a position.

    For texts longer than the `original` ones some frequencies are divided by `factor`: all of them (linear, arXiv
    2306.15595); those that make fewer than `low` periods in the original length, with a blend up to `high` periods
    (llama3, arXiv 2407.21783, whose config.json calls them low_freq_factor and high_freq_factor; yarn, arXiv
    2309.00071, with beta_slow and beta_fast, blends evenly from pair to pair and begins and ends at whole pairs where
    `truncate`). `magnitude` is what cosines and sines are multiplied by.
    """

    theta: float
    width: int
    scaling: Literal["", "linear", "llama3", "yarn"] = ""
    factor: float = 1.0
    original: int = 0
    low: float = 1.0
    high: float = 4.0
    truncate: bool = True
    magnitude: float = 1.0

    def frequencies(self) -> list[float]:
        """Return the angles, in radians, by which one position turns each of the width / 2 pairs."""
        plain = [self.theta ** (-2 * pair / self.width) for pair in range(self.width // 2)]
        if not self.scaling:
            return plain
        kept = (min(1.0, max(0.0, share)) for share in self._kept(plain))
        return [(1 - share) * angle / self.factor + share * angle for angle, share in zip(plain, kept, strict=True)]

    def _kept(self, plain: list[float]) -> list[float]:
        """Return the share of each frequency that is not divided; what lies outside 0 and 1 is to be cut off."""
        if self.scaling == "linear":
            return [0.0] * len(plain)
        if self.scaling == "llama3":
            return [(self.original * angle / math.tau - self.low) / (self.high - self.low) for angle in plain]

        first, last = self._pair(self.high), self._pair(self.low)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, self.width - 1)
        return [1 - (pair - first) / max(last - first, 0.001) for pair in range(len(plain))]

    def _pair(self, periods: float) -> float:
        """Return the number of the pair, a fraction, that makes so many periods in the original length."""
        return self.width * math.log(self.original / (periods * math.tau)) / (2 * math.log(self.theta))
