"""The look of all pictures: colours, type, axes; without pyplot, so there is no global figure and no window."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#2f6db5", "#d9622b", "#2e8b57", "#8e4ec6", "#b8860b", "#c2346e", "#0f8b8d", "#6b7280")
INK, FAINT = "#1f2933", "#d5dbe1"
_INKED = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")
SIZE = (6.4, 3.9)  # inches of a panel: legible on a phone, two beside each other on a screen


class Canvas:
    """Panels to draw on; `png` is there once the context is left."""

    axes: "list[Axes]"
    png: bytes


@contextmanager
def canvas(rows: int = 1, columns: int = 1, size: tuple[float, float] = SIZE) -> Iterator[Canvas]:
    """Draw so many panels of `size` inches, filled row by row. The PNG is there when the block ends."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    style: dict[Any, Any] = {"font.size": 11, "text.parse_math": False, "agg.path.chunksize": 20_000}
    style |= dict.fromkeys(_INKED, INK)

    made = Canvas()
    with matplotlib.rc_context(style):
        layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
        figure = Figure(figsize=(size[0] * columns, size[1] * rows), dpi=160, layout=layout, facecolor="white")
        made.axes = list(figure.subplots(rows, columns, squeeze=False).flatten())
        yield made
        file = io.BytesIO()
        figure.savefig(file, format="png", metadata={"Software": None})
    made.png = file.getvalue()


def dress(axes: "Axes", title: str, legend: bool, columns: int = 3) -> None:
    """Give a panel its title, a quiet grid and no frame; the legend is above it, so many labels in a row."""
    axes.set_title(title, loc="left", fontweight="bold", fontsize=12.5, pad=26 if legend else 10)
    axes.grid(True, color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(which="both", length=0)
    if legend:
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1), "borderaxespad": 0.2}
        axes.legend(frameon=False, fontsize=10, ncols=columns, **place)
