"""Which curves a report of runs shows.

One run: training in blue, held-out in orange. Several: a color each, held-out loss dashed.
"""

import math
from collections.abc import Sequence

import numpy as np

from phalanx.report.curves import Curve, Mark, Panel, smooth
from phalanx.report.runs import Run

NO_SCORE = {"step", "kind", "loss", "perplexity", "tokens", "samples"}  # of an evaluation's values
EARLY = 25  # the first 1/25 of a run does not decide how far the axis of the loss reaches


def panels(runs: Sequence[Run]) -> list[Panel]:
    """Return the panels of loss, perplexity, scores, rate, gradient norm and speed: those that the runs recorded."""
    top = _top(runs)
    keys = dict.fromkeys(key for run in runs for key in run.keys("valid") if not key.endswith("_loss"))
    scores = [key for key in keys if key not in NO_SCORE]

    drawn = [
        _loss(runs, top),
        _held_out(runs, "perplexity", log=True, top=math.exp(min(top, 700)) if top else None),
        *(_held_out(runs, key) for key in scores),
        Panel("Learning rate", [Curve(_label(runs, i), *run.series("train", "lr"), i) for i, run in enumerate(runs)]),
        Panel("Gradient norm", _trained(runs, "grad_norm"), log=True),
        Panel("Tokens per second", _trained(runs, "tokens_per_s")),
    ]

    return [panel for panel in drawn if any(np.isfinite(curve.values).any() for curve in panel.curves)]


def _label(runs: Sequence[Run], i: int, alone: str = "") -> str:
    return runs[i].name if len(runs) > 1 else alone


def _loss(runs: Sequence[Run], top: float | None) -> Panel:
    several = len(runs) > 1
    curves, marks = _trained(runs, "loss", "training"), []
    for i, run in enumerate(runs):
        steps, losses = run.series("valid", "loss")
        color = i if several else 1
        curves.append(
            Curve("", steps, losses, i, "dashed") if several else Curve("held-out", steps, losses, 1, "points")
        )
        if run.best:
            step, loss = run.best
            marks.append(Mark(step, f"{loss:.3f}", value=loss, color=color))
            if run.verdict and not several:
                marks.append(Mark(step, run.verdict, end=steps[-1], color=color))
    return Panel("Loss (held-out dashed)" if several else "Loss", curves, marks, top=top)


def _trained(runs: Sequence[Run], key: str, alone: str = "") -> list[Curve]:
    """Return two curves for each run: every value of `key`, drawn faintly, and their running mean."""
    curves = []
    for i, run in enumerate(runs):
        steps, values = run.series("train", key)
        curves += [Curve("", steps, values, i, "faint"), Curve(_label(runs, i, alone), steps, smooth(values), i)]
    return curves


def _held_out(runs: Sequence[Run], key: str, log: bool = False, top: float | None = None) -> Panel:
    colors = range(len(runs)) if len(runs) > 1 else [1]
    curves = [
        Curve(_label(runs, i), *run.series("valid", key), color, "points")
        for i, (run, color) in enumerate(zip(runs, colors, strict=True))
    ]
    return Panel(f"Held-out {key.replace('_', ' ')}", curves, log=log, top=top)


def _top(runs: Sequence[Run]) -> float | None:
    """Return where to cut the axis of falling losses: above all that come after the early part. None for short runs."""
    smoothed = [smooth(run.series("train", "loss")[1]) for run in runs]
    if min(map(len, smoothed)) < 2 * EARLY:
        return None
    late = np.concatenate([losses[len(losses) // EARLY :] for losses in smoothed])
    late = late[np.isfinite(late)]
    return float(late.max() + 0.1 * np.ptp(late)) if len(late) else None
