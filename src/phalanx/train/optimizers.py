"""The optimizers that Phalanx has: their keys, and what they keep, compute and send.

Torch is imported when one is built. What decays, and what Muon takes, is decided by the role that a parameter has in
the description of the model.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import PositiveFloat

from phalanx.optimizer import WEIGHT, OptimConfig, Product
from phalanx.section import Fraction
from phalanx.spec.leaves import DECAYING, Parameter

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from phalanx.parallel.parameters import Parameters
    from phalanx.train.optim import Groups

STEPS = 5  # of Muon's iteration


class AdamW(OptimConfig):
    """How the weights move: AdamW (Loshchilov and Hutter, arXiv 1711.05101)."""

    name: str = "adamw"
    beta1: Fraction = 0.9
    """Decay of the first moment."""
    beta2: Fraction = 0.999
    """Decay of the second moment."""
    eps: PositiveFloat = 1e-8
    """Epsilon of the update's denominator."""

    def build(self, parameters: "Parameters") -> "list[Optimizer]":
        """Return torch's AdamW."""
        from phalanx.train.optim import groups

        return [self._adamw(groups(parameters, self.weight_decay))]

    def _adamw(self, groups: "Groups") -> "Optimizer":
        from phalanx.train.optim import fused_adamw

        return fused_adamw(groups, self.lr, (self.beta1, self.beta2), self.eps)

    def state(self, parameter: Parameter) -> int:
        """Return the bytes of two moments."""
        return 2 * WEIGHT

    def messages(self, parameters: Sequence[Parameter]) -> list[int]:
        """Return nothing: each element moves for itself."""
        return []


class Lamb(AdamW):
    """How the weights move: LAMB (You et al., arXiv 1904.00962), for batches of tens of thousands."""

    name: str = "lamb"

    def build(self, parameters: "Parameters") -> "list[Optimizer]":
        """Return LAMB over all parameters."""
        from phalanx.train import lamb
        from phalanx.train.optim import groups

        betas = self.beta1, self.beta2
        return [lamb.Lamb(parameters, groups(parameters, self.weight_decay), self.lr, betas, self.eps)]

    def messages(self, parameters: Sequence[Parameter]) -> list[int]:
        """Return the norms of all that decays, and of its updates."""
        decaying = sum(parameter.role in DECAYING for parameter in parameters)
        return [decaying] * 2 if decaying and self.weight_decay else []

    def moved(self, parameter: Parameter) -> int:
        """Return the bytes of AdamW's step, and of reading all again for the norms of updates."""
        return super().moved(parameter) + 4 * WEIGHT


class Muon(AdamW):
    """How the weights move: Muon (Jordan et al., 2024) for the matrices of layers, AdamW for all else."""

    name: str = "muon"
    split_fused: bool = False
    """Make q, k and v, and gate and up, orthogonal apart, as Muon's authors do, rather than what is stored as one."""

    def build(self, parameters: "Parameters") -> "list[Optimizer]":
        """Return Muon and AdamW. InputError for a model whose layers have no matrices."""
        from phalanx.train import muon
        from phalanx.train.optim import groups

        ours = muon.Muon(parameters, self.lr, self.weight_decay, STEPS, self.split_fused)
        return [ours, self._adamw(groups(parameters, self.weight_decay, without={"matrix"}))]

    def state(self, parameter: Parameter) -> int:
        """Return the bytes of one moment for the matrices of layers, of two for all else."""
        return WEIGHT if parameter.role == "matrix" else super().state(parameter)

    def messages(self, parameters: Sequence[Parameter]) -> list[int]:
        """Return the sizes of the matrices, which are put together before they are made orthogonal."""
        return [parameter.elements for parameter in parameters if parameter.role == "matrix"]

    def products(self, parameter: Parameter) -> list[Product]:
        """Return those of Newton's and Schulz's iteration for a matrix of a layer, or for each of its fused parts."""
        if parameter.role != "matrix":
            return []
        rows, columns = parameter.dims
        parts = [part.size * rows.units for part in rows.fused] if self.split_fused else []
        products = list[Product]()
        for height in parts or [rows.stored]:
            short, long = sorted((height, columns.stored))
            products += [(short, short, long), (short, short, short), (short, long, short)] * STEPS
        return products
