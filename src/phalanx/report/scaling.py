"""Scaling as pictures: compute performance, efficiency and time to train over the number of GPUs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from phalanx import durable
from phalanx.report.canvas import COLORS, INK, canvas, dress

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Point(Protocol):
    """Some GPUs: FLOP/s of all, share of as many times one, and that share as published."""

    @property
    def gpus(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def flops(self) -> float: ...
    @property
    def efficiency(self) -> float: ...
    @property
    def published(self) -> float | None: ...


class Time(Protocol):
    """Seconds of two phases on some GPUs."""

    @property
    def gpus(self) -> int: ...
    @property
    def phases(self) -> tuple[float, float]: ...


def draw(
    weak: Mapping[str, Sequence[Point]],
    baseline: float,
    times: Sequence[Time],
    published: Sequence[tuple[int, float]],
    measured: Sequence[Point],
    out: Path,
) -> None:
    """Write a PNG. `weak`: points by their name; `baseline`: FLOP/s of the one GPU that published shares are of."""
    with canvas(columns=3, size=(6.0, 4.4)) as drawn:
        _performance(drawn.axes[0], weak, baseline, measured)
        _efficiency(drawn.axes[1], weak, measured)
        _time(drawn.axes[2], times, published)
    durable.write(out, drawn.png)


def _performance(axes: "Axes", weak: Mapping[str, Sequence[Point]], baseline: float, measured: Sequence[Point]) -> None:
    every = [point for points in weak.values() for point in points]
    smallest = min(every, key=lambda point: point.gpus)
    ends = (smallest.gpus, max(point.gpus for point in every))
    axes.plot(
        ends, [smallest.flops * n / smallest.gpus / 1e15 for n in ends], ":", color=INK, linewidth=1, label="linear"
    )

    for color, (name, points) in zip(COLORS, weak.items(), strict=False):
        axes.plot([p.gpus for p in points], [p.flops / 1e15 for p in points], color=color, label=name, linewidth=1.8)
        known = [p for p in points if p.published is not None]
        at = [p.gpus * (p.published or 0) * baseline / 1e15 for p in known]
        axes.plot([p.gpus for p in known], at, "o", color=color, markeredgecolor="white", markersize=7)

    if measured:
        axes.plot(
            [p.gpus for p in measured], [p.flops / 1e15 for p in measured], "D", color=COLORS[2], label="measured"
        )

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("GPUs")
    axes.set_ylabel("PFLOP/s of all")
    dress(axes, "Compute performance", legend=True)


def _efficiency(axes: "Axes", weak: Mapping[str, Sequence[Point]], measured: Sequence[Point]) -> None:
    place, ticks, places = 0.0, [], []

    for color, (name, points) in zip(COLORS, weak.items(), strict=False):
        at = [place + number for number in range(len(points))]
        axes.bar(at, [100 * p.efficiency for p in points], 0.7, color=color, label=name)
        for spot, point in zip(at, points, strict=True):
            axes.text(spot, 2, f"{100 * point.efficiency:.0f}", ha="center", color="white", fontsize=10)
            if point.published is not None:
                axes.plot(spot, 100 * point.published, "o", color=INK, markeredgecolor="white", markersize=8)
            for run in measured:
                if run.name == "tp, weak" and run.gpus == point.gpus:
                    axes.plot(spot + 0.2, 100 * run.efficiency, "D", color=COLORS[2], markeredgecolor="white")
        places += at
        ticks += [f"{point.gpus}\n{point.name.split()[-1]}" for point in points]
        place = at[-1] + 1.6

    axes.plot([], [], "o", color=INK, label="published")
    if any(run.name == "tp, weak" for run in measured):
        axes.plot([], [], "D", color=COLORS[2], label="measured")

    axes.set_xticks(places, ticks, fontsize=9)
    axes.set_ylim(0, 115)
    axes.set_xlabel("GPUs, and the model's parameters")
    axes.set_ylabel("% of as many times one GPU")
    dress(axes, "Scaling efficiency", legend=True)
    axes.grid(False, axis="x")


def _time(axes: "Axes", times: Sequence[Time], published: Sequence[tuple[int, float]]) -> None:
    gpus = [time.gpus for time in times]
    curves = {"both": [sum(time.phases) for time in times]}
    curves |= {f"phase {n + 1}": [time.phases[n] for time in times] for n in range(2)}

    for color, (name, seconds) in zip(COLORS, curves.items(), strict=False):
        width = 1.0 if name.startswith("phase") else 2.0
        axes.plot(gpus, [s / 3600 for s in seconds], color=color, label=name, linewidth=width)

    at, hours = zip(*((n, s / 3600) for n, s in published), strict=True)
    axes.plot(at, hours, "o", color=COLORS[0], markeredgecolor="white", markersize=8, label="published")

    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(gpus, [f"{n:,}" for n in gpus], fontsize=8)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("V100 GPUs")
    axes.set_ylabel("hours")
    dress(axes, "Time to train BERT-Large", legend=True, columns=4)


def draw_measured(points: Sequence[Point], title: str, out: Path) -> None:
    """Write a PNG of what was measured on 1, 2, 4 … processes."""
    with canvas(columns=2, size=(6.0, 4.0)) as drawn:
        left, right = drawn.axes
        gpus, smallest = [point.gpus for point in points], points[0]

        left.plot(
            gpus, [smallest.flops * n / smallest.gpus / 1e9 for n in gpus], ":", color=INK, linewidth=1, label="linear"
        )
        left.plot(gpus, [p.flops / 1e9 for p in points], "o-", color=COLORS[0], label="measured", linewidth=1.8)
        left.set_xticks(gpus, [str(n) for n in gpus])
        left.set_ylim(0)
        left.set_xlabel("processes")
        left.set_ylabel("model GFLOP/s of all")
        dress(left, f"Compute performance: {title}", legend=True)

        places = range(len(points))
        right.bar(places, [100 * p.efficiency for p in points], 0.7, color=COLORS[0])
        for place, point in zip(places, points, strict=True):
            right.text(place, 2, f"{100 * point.efficiency:.0f}", ha="center", color="white", fontsize=10)
        right.set_xticks(places, [str(n) for n in gpus])
        right.set_ylim(0, 115)
        right.set_xlabel("processes")
        right.set_ylabel("% of as many times one")
        dress(right, "Scaling efficiency", legend=False)
        right.grid(False, axis="x")
    durable.write(out, drawn.png)
