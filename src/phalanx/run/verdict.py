"""The verdict on a run by its losses: one rule, for the console and for reports."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from phalanx.run.records import Record

RISE = 0.005  # a loss has risen when it is this fraction above what it was
LATER = 3  # evaluations after the best one before anything is said

OVERFITS, DIVERGES = "overfits", "diverges"


def judge(records: Sequence[Record]) -> str:
    """Return OVERFITS where the held-out loss rose while the training loss fell, DIVERGES where both rose, else
    nothing.

    The training loss of an evaluation is the mean over as many steps before it as lie between the last two.
    """
    held_out = [(r["step"], r["loss"]) for r in records if r["kind"] == "valid" and r["loss"] is not None]
    if not held_out:
        return ""
    best, lowest = min(held_out, key=lambda entry: entry[1])
    last, loss = held_out[-1]
    if sum(step > best for step, _ in held_out) < LATER or loss <= lowest * (1 + RISE):
        return ""
    between = last - held_out[-2][0]
    then, now = (_training(records, range(stop - between + 1, stop + 1)) for stop in (best, last))
    if now < then:
        return OVERFITS
    return DIVERGES if now > then * (1 + RISE) else ""


def _training(records: Iterable[Record], steps: range) -> float:
    losses = [r["loss"] for r in records if r["kind"] == "train" and r["step"] in steps and r["loss"] is not None]
    return fmean(losses) if losses else float("nan")
