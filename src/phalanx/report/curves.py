"""Curves over training steps, as PNG.

A `Panel` says what is drawn, `curve_png` draws it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from phalanx.report.canvas import COLORS, canvas, dress

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOOKS: dict[str, dict[str, Any]] = {
    "line": {"linewidth": 1.8, "zorder": 3},
    "dashed": {"linewidth": 1.6, "linestyle": (0, (5, 2)), "zorder": 4},
    "points": {"linewidth": 1.6, "marker": "o", "markersize": 4.5, "markeredgecolor": "white", "zorder": 4},
    "faint": {"linewidth": 0.8, "alpha": 0.3, "zorder": 2},
    "wide": {"linewidth": 7, "alpha": 0.28, "solid_capstyle": "round", "zorder": 2},
}


@dataclass(frozen=True)
class Curve:
    """Values at steps. Without a label it is not in the legend; NaN leaves a gap; `color` numbers the palette."""

    label: str
    steps: Sequence[float] | np.ndarray
    values: Sequence[float] | np.ndarray
    color: int = 0
    look: Literal["line", "dashed", "points", "faint", "wide"] = "line"


@dataclass(frozen=True)
class Mark:
    """Something at a step: a point where `value` is given, a band up to `end`, else an upright line."""

    step: float
    text: str
    value: float | None = None
    end: float | None = None
    color: int = 0


@dataclass(frozen=True)
class Panel:
    """One pair of axes. `top` cuts the y-axis where a few early values would flatten all others."""

    title: str
    curves: Sequence[Curve]
    marks: Sequence[Mark] = ()
    log: bool = False
    top: float | None = None


def curve_png(*panels: Panel, columns: int = 1) -> bytes:
    """Return a PNG of the panels, `columns` beside each other."""
    with canvas(math.ceil(len(panels) / columns), columns) as drawn:
        for place, panel in zip(drawn.axes, panels, strict=False):
            _draw(place, panel)
        for place in drawn.axes[len(panels) :]:
            place.set_visible(False)
    return drawn.png


def smooth(values: np.ndarray) -> np.ndarray:
    """Return the running mean over about a fortieth of the curve, over less at its steep beginning; NaN is skipped.
    values: [n]
    """
    mean, smoothed = math.nan, np.empty(len(values))
    for i, value in enumerate(values):
        if math.isfinite(value):
            span = max(1.0, min(i / 8, len(values) / 40))
            mean = value if math.isnan(mean) else mean + (value - mean) / span
        smoothed[i] = mean
    return smoothed


def _draw(axes: "Axes", panel: Panel) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    for curve in panel.curves:
        color = COLORS[curve.color % len(COLORS)]
        axes.plot(curve.steps, curve.values, color=color, label=curve.label or "_", **_LOOKS[curve.look])

    dress(axes, panel.title, any(curve.label for curve in panel.curves))
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))

    if panel.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    if panel.top is not None:
        axes.set_ylim(top=panel.top)
    for mark in panel.marks:
        _mark(axes, mark)


def _tick(value: float) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"


def _mark(axes: "Axes", mark: Mark) -> None:
    from matplotlib.patheffects import withStroke

    color = COLORS[mark.color % len(COLORS)]
    halo = withStroke(linewidth=3, foreground="white")
    note: dict[str, Any] = {"fontsize": 10, "color": color, "path_effects": [halo], "zorder": 7}
    if mark.value is not None:
        axes.plot([mark.step], [mark.value], marker="*", markersize=15, color=color, markeredgecolor="white", zorder=6)
        axes.annotate(mark.text, (mark.step, mark.value), (0, 10), textcoords="offset points", ha="center", **note)
        return
    if mark.end is not None:
        axes.axvspan(mark.step, mark.end, color=color, alpha=0.08, linewidth=0)
    else:
        axes.axvline(mark.step, color=color, linewidth=1.2, linestyle=":")
    top = (mark.step, 0.93)
    axes.annotate(mark.text, top, (6, 0), xycoords=("data", "axes fraction"), textcoords="offset points", **note)
