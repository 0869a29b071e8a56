"""The memory of a step as a picture: the bytes of each kind after every operation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from phalanx import durable
from phalanx.report.canvas import COLORS, INK, canvas, dress

GIB, MIB = 2**30, 2**20
POINTS = 2000  # across the picture; each shows the fullest moment of the operations that it stands for


def draw(timeline: NDArray[np.int64], kinds: Sequence[str], title: str, out: Path) -> None:
    """Write a PNG. timeline: bytes [operations, kinds]"""
    total = timeline.sum(1)
    unit, name = (GIB, "GiB") if total.max() >= GIB else (MIB, "MiB")
    starts = np.linspace(0, len(timeline), min(POINTS, len(timeline)), endpoint=False).astype(int)
    ends = [*starts[1:], len(timeline)]
    shown = [start + int(total[start:end].argmax()) for start, end in zip(starts, ends, strict=True)]

    with canvas(size=(9.0, 4.2)) as drawn:
        (axes,) = drawn.axes
        axes.stackplot(shown, timeline[shown].T / unit, labels=kinds, colors=COLORS, linewidth=0)

        peak = int(total.argmax())
        axes.plot([peak], [total[peak] / unit], marker="v", color=INK, markersize=7, clip_on=False)
        side = "right" if peak > len(timeline) / 2 else "left"
        axes.annotate(f" {total[peak] / unit:.2f} {name} ", (peak, total[peak] / unit), (0, 7), ha=side, va="bottom",
                      textcoords="offset points")  # fmt: skip

        axes.set_ylim(0, 1.12 * total.max() / unit)
        axes.set_xlim(0, len(timeline) - 1)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("operations of the step")
        axes.set_ylabel(name)
        dress(axes, title, legend=True, columns=len(kinds))
    durable.write(out, drawn.png)
