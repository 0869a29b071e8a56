"""Which curves a report of runs shows.

One run: training in blue, held-out in orange. Several: a color each, held-out dashed.
"""

from collections.abc import Sequence

import numpy as np

from phalanx.report.curves import Curve, Mark, Panel, smooth
from phalanx.report.runs import Run

_TRAINED = (
    ("lr", "Learning rate", False),
    ("grad_norm", "Gradient norm", True),
    ("tokens_per_s", "Tokens per second", False),
)


def panels(runs: Sequence[Run]) -> list[Panel]:
    """Loss, perplexity, accuracy, learning rate, gradient norm, speed: those that the runs recorded."""
    drawn = [_loss(runs), _held_out(runs, "perplexity", log=True)]
    accuracies = dict.fromkeys(key for run in runs for key in run.keys("valid") if key.endswith("accuracy"))
    drawn += [_held_out(runs, key) for key in accuracies]
    drawn += [_trained(runs, key, title, log) for key, title, log in _TRAINED]
    return [panel for panel in drawn if any(np.isfinite(curve.values).any() for curve in panel.curves)]


def _loss(runs: Sequence[Run]) -> Panel:
    several = len(runs) > 1
    curves: list[Curve] = []
    marks: list[Mark] = []
    tops: list[float] = []
    for i, run in enumerate(runs):
        steps, losses = run.series("train", "loss")
        smoothed, held_out = smooth(losses), i if several else 1
        curves += [
            Curve("", steps, losses, i, "faint"),
            Curve(run.name if several else "training", steps, smoothed, i),
            Curve(
                "" if several else "held-out",
                *run.series("valid", "loss"),
                held_out,
                "dashed" if several else "points",
            ),
        ]
        tops.append(_top(smoothed))
        marks += _best(run, held_out)
    return Panel("Loss", curves, marks, top=max(tops) if all(map(np.isfinite, tops)) else None)


def _held_out(runs: Sequence[Run], key: str, log: bool = False) -> Panel:
    several = len(runs) > 1
    curves = [
        Curve(run.name if several else "", *run.series("valid", key), i if several else 1, "points")
        for i, run in enumerate(runs)
    ]
    return Panel(f"Held-out {key.replace('_', ' ')}", curves, log=log)


def _trained(runs: Sequence[Run], key: str, title: str, log: bool) -> Panel:
    label = len(runs) > 1
    return Panel(
        title,
        [Curve(run.name if label else "", *run.series("train", key), i, "line") for i, run in enumerate(runs)],
        log=log,
    )


def _best(run: Run, color: int) -> list[Mark]:
    """The lowest held-out loss, and the stretch after it if the loss turned up."""
    if run.best is None:
        return []
    step, loss = run.best
    star = Mark(step, f"{loss:.3f}", value=loss, color=color)
    if not run.overfits:
        return [star]
    return [star, Mark(step, "overfits", end=float(run.series("valid", "loss")[0][-1]), color=color)]


def _top(smoothed: np.ndarray) -> float:
    """Where to cut the axis of a falling loss: its value after the first fiftieth, with some room; NaN for nowhere."""
    if len(smoothed) < 100:
        return float("nan")
    high, low = smoothed[len(smoothed) // 50], np.nanmin(smoothed)
    return float(high + 0.1 * (high - low))
