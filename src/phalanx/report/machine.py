"""A calibrated machine as a picture: products by size, collectives by bytes, neighbours."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from phalanx import durable
from phalanx.report.canvas import COLORS, canvas, dress


def draw(
    products: Mapping[str, Mapping[int, float]],
    collectives: Mapping[int, Sequence[tuple[int, float]]],
    busy: Mapping[int, tuple[float, float]],
    title: str,
    out: Path,
) -> None:
    """Write a PNG. FLOP/s by precision and side; seconds of an all-reduce by bytes, for each size of a group; how many
    times longer products and copies take beside so many busy processes.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    with canvas(columns=3, size=(6.0, 4.2)) as drawn:
        left, middle, right = drawn.axes
        for color, (dtype, rates) in zip(COLORS, products.items(), strict=False):
            left.plot(list(rates), [rate / 1e9 for rate in rates.values()], "o-", color=color, label=dtype)

        left.set_xscale("log", base=2)
        left.xaxis.set_major_formatter("{x:g}")
        left.set_ylim(0)
        left.set_xlabel("side of a square layer")
        left.set_ylabel("GFLOP/s")
        dress(left, title, legend=True)

        for color, (size, times) in zip(COLORS, collectives.items(), strict=False):
            at, seconds = zip(*times, strict=True)
            middle.plot(at, [1e3 * s for s in seconds], "o-", color=color, label=f"{size} processes")

        middle.set_xscale("log", base=2)
        middle.set_yscale("log")
        middle.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        middle.yaxis.set_major_formatter("{x:g}")
        middle.yaxis.set_minor_formatter(NullFormatter())

        sizes = [size for size, _ in next(iter(collectives.values()), ())]
        middle.set_xticks(sizes, [_bytes(size) for size in sizes])
        middle.set_xlabel("bytes summed")
        middle.set_ylabel("milliseconds")
        dress(middle, "All-reduce", legend=bool(collectives))

        counts = sorted(busy)
        for color, (name, place) in zip(COLORS, {"products": 0, "copies": 1}.items(), strict=False):
            spots = [number + 0.36 * place - 0.18 for number in range(len(counts))]
            right.bar(spots, [busy[count][place] for count in counts], 0.34, color=color, label=name)

        right.set_xticks(range(len(counts)), [str(count) for count in counts])
        right.set_ylim(0)
        right.set_xlabel("busy processes")
        right.set_ylabel("times longer")
        dress(right, "Beside neighbours", legend=True)
        right.grid(False, axis="x")
    durable.write(out, drawn.png)


def _bytes(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
