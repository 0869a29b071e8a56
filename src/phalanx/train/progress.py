"""How far a run has come, and what its held-out loss says: the best, and when to stop."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from phalanx.run.verdict import DIVERGES, OVERFITS


@dataclass
class Progress:
    """The counters of a run, saved in its checkpoints."""

    step: int = 0  # optimizer steps done
    tokens: int = 0  # tokens seen
    best: float = math.inf  # lowest held-out loss, or negative of the largest value that the task names
    best_step: int = 0
    stale: int = 0  # evaluations since the best
    evaluated: int = 0  # step of the last evaluation
    loss: float = math.inf  # what it found, as `best`
    finished: bool = False  # stopped early

    def record(self, loss: float, patience: int) -> bool:
        """Take in a held-out loss; return whether it is the best. `patience` stale ones in a row finish the run."""
        self.loss, self.evaluated = loss, self.step
        if loss < self.best:
            self.best, self.best_step, self.stale = loss, self.step, 0
            return True
        self.stale += 1
        self.finished = bool(patience) and self.stale >= patience
        return False

    @property
    def turned(self) -> bool:
        """Return whether the held-out loss has just been above its best for so long that it deserves a word."""
        return self.finished or self.stale in (3, 10, 30, 100)

    def verdict(self, judged: str, best_by: str = "loss") -> str:
        """Return what to tell the user of a loss that turned and of how `judge` judged it; it may be nothing."""
        name, most = ("held-out loss", "lowest") if best_by == "loss" else (best_by.replace("_", " "), "highest")
        best, now = f"{abs(self.best):.4f}", f"{abs(self.loss):.4f}"
        risen = f"the {name} was {most} at step {self.best_step} ({best}) and is {now} now"
        explanation = {
            OVERFITS: f"the model overfits: {risen}; more data, more dropout or fewer steps would help",
            DIVERGES: f"the run diverges: {risen}, and the training loss rose too; a lower optim.lr would help",
            "": "",
        }[judged]
        if not self.finished:
            return explanation
        return (
            f"stopping early: the {name} has not improved for {self.stale} evaluations. The best is "
            f"{best} at step {self.best_step}, and it is kept" + (f"; {explanation}" if explanation else "")
        )

    def state_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self)

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Take the values of a checkpoint."""
        for name, value in values.items():
            setattr(self, name, value)
