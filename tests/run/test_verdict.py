"""What losses say: overfitting is held-out loss that rises while the training loss falls, and nothing else."""

import pytest

from phalanx.run.records import Record
from phalanx.run.verdict import DIVERGES, OVERFITS, judge


def records(training: list[float | None], held_out: list[float | None]) -> list[Record]:
    """Ten training steps of a loss, then an evaluation, and so on."""
    told: list[Record] = []
    for number, (trained, loss) in enumerate(zip(training, held_out, strict=True)):
        told += [{"step": 10 * number + i, "kind": "train", "loss": trained} for i in range(1, 11)]
        told.append({"step": 10 * number + 10, "kind": "valid", "loss": loss})
    return told


@pytest.mark.parametrize(
    ("training", "held_out", "judged"),
    [
        ([5, 4, 3, 2, 1], [5, 4, 4.1, 4.2, 4.3], OVERFITS),
        ([5, 4, 5, 6, 7], [5, 4, 5, 6, 7], DIVERGES),
        ([5, 4, None, 6, 7], [5, 4, None, 5, 6], ""),  # two evaluations after the best
        ([5, 4, 5, 6, None], [5, 4, 5, 6, 7], ""),
        ([5, 4, 4, 4, 4], [5, 4, 5, 6, 7], ""),
        ([5, 4, 3, 2, 1], [5, 4, 4, 4, 4.01], ""),
        ([5, 4, 3, 2, 1], [5, 4.3, 4.2, 4.1, 4], ""),
        ([5, 4], [None, None], ""),
    ],
)
def test_the_rule(training: list[float | None], held_out: list[float | None], judged: str) -> None:
    assert judge(records(training, held_out)) == judged
    assert judge([]) == ""
