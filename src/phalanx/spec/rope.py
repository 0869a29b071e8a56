"""Rotary position embeddings: their frequencies."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding (arXiv 2104.09864) of the first `width` numbers of a head.

    Number i of the first half turns with number i of the second, by `frequencies()[i]` radians a position.
    """

    theta: float
    width: int

    def frequencies(self) -> list[float]:
        """Return the angles, in radians, by which one position turns each of the width / 2 pairs."""
        return [self.theta ** (-2 * pair / self.width) for pair in range(self.width // 2)]
