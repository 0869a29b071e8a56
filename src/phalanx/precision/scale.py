"""The loss scale of fp16 training (Micikevicius et al., arXiv 1710.03740).

fp16 gradients below 6e-8 vanish, so the loss is multiplied before backward and the gradient divided after. The scale
doubles after a window of good steps, up to a bound, and halves on an overflow, but never below a floor: an overflow
there is no matter of scale, and counts as a bad step.
"""

import math

from phalanx.config import LARGEST_SCALE, PrecisionConfig
from phalanx.errors import InputError


class LossScale:
    """The loss scale, of which `value` is the factor; 1 and constant unless the precision is fp16."""

    def __init__(self, precision: PrecisionConfig) -> None:
        if precision.loss_scale < precision.scale_floor:
            raise InputError(
                f"precision.loss_scale={precision.loss_scale:g} is below precision.scale_floor="
                f"{precision.scale_floor:g}; raise the one or lower the other"
            )
        self.dynamic = precision.dtype == "fp16"
        self.window, self.floor = precision.scale_window, precision.scale_floor
        self.value = precision.loss_scale if self.dynamic else 1.0
        self.good = 0  # good steps since the last change

    def overflowed(self, loss: float, grad_norm: float) -> bool:
        """Return whether a step with this gradient norm failed only because the scale is too high."""
        return self.dynamic and math.isfinite(loss) and not math.isfinite(grad_norm) and self.value > self.floor

    def update(self, good: bool) -> None:
        """Take in the outcome of a step."""
        if not self.dynamic:
            return
        if not good:
            self.value, self.good = max(self.floor, self.value / 2), 0
        else:
            self.good += 1
            if self.good == self.window:
                self.value, self.good = min(self.value * 2, LARGEST_SCALE), 0

    def state_dict(self) -> dict[str, float]:
        """Return plain values for a checkpoint."""
        return {"value": self.value, "good": float(self.good)}

    def load_state_dict(self, values: dict[str, float]) -> None:
        """Take the values of a checkpoint."""
        if self.dynamic:
            self.value, self.good = values["value"], int(values["good"])
