"""Two curves that should be one, as a picture: the losses over each other, and how far they are apart."""

import math
from pathlib import Path

from phalanx import durable
from phalanx.report.curves import Curve, Panel, curve_png
from phalanx.run.comparison import Comparison


def draw(compared: Comparison, out: Path) -> None:
    """Write the picture as a PNG."""
    steps = range(1, len(compared.losses) + 1)
    first, second = ([point.loss for point in curve] for curve in compared.curves)
    losses, norms = ([gap or math.nan for gap in gaps] for gaps in (compared.losses, compared.norms))  # log 0: a gap
    curves = Curve(compared.names[0], steps, first, 0, "wide"), Curve(compared.names[1], steps, second, 1)
    differences = (
        Curve("loss", steps, losses, 1, "points"),
        Curve("gradient norm", steps, norms, 2, "points"),
        Curve(f"allowed to the loss in {compared.dtype}", steps, [most.loss for most in compared.allowed], 7, "dashed"),
    )
    panels = Panel("Loss", curves), Panel("Difference", differences, log=True)
    durable.write(out, curve_png(*panels, columns=2))
