"""How far a run has come, and what its held-out loss says: the best, a turn upwards, when to stop."""

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Progress:
    """The counters of a run, saved in its checkpoints."""

    step: int = 0  # optimizer steps done
    tokens: int = 0  # tokens seen
    best: float = math.inf  # lowest held-out loss
    best_step: int = 0
    stale: int = 0  # evaluations since the best
    evaluated: int = 0  # step of the last evaluation
    loss: float = math.inf  # its held-out loss
    finished: bool = False  # stopped early

    def record(self, loss: float, patience: int) -> bool:
        """Take in a held-out loss; True if it is the best so far. `patience` stale ones in a row finish the run."""
        self.loss, self.evaluated = loss, self.step
        if loss < self.best:
            self.best, self.best_step, self.stale = loss, self.step, 0
            return True
        self.stale += 1
        self.finished = bool(patience) and self.stale >= patience
        return False

    def verdict(self) -> str:
        """What to tell the user after an evaluation: nothing, that the model overfits, or that the run stops."""
        if self.finished:
            return (
                f"stopping early: the held-out loss has not improved for {self.stale} evaluations; the model overfits. "
                f"The best is {self.best:.4f} at step {self.best_step}, and it is kept"
            )
        if self.stale in (3, 10, 30, 100):
            return (
                f"the model overfits: the held-out loss was lowest at step {self.best_step} ({self.best:.4f}) and is "
                f"{self.loss:.4f} now; more data, more dropout or fewer steps would help"
            )
        return ""

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return asdict(self)

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Take the values of a checkpoint."""
        for name, value in values.items():
            setattr(self, name, value)
