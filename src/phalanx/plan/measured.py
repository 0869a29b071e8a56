"""How long kernels take where `phalanx calibrate` has measured them."""

from bisect import bisect_right
from collections.abc import Sequence
from math import exp, log, prod

from phalanx.plan.cluster import Cluster, Measured
from phalanx.plan.kernels import Kernel, Timer
from phalanx.plan.workload import Workload


def timer(cluster: Cluster, work: Workload) -> Timer:
    """Return a timer by what was measured, if anything was, else by the roofline."""
    return MeasuredTimer(cluster, cluster.measured, work) if cluster.measured else Timer(cluster, work.precision)


class MeasuredTimer(Timer):
    """Times kernels by what was measured: a product takes as long as a cube of as many operations; other kernels, their
    bytes at the speed of their kind; both longer beside busy neighbours. Those of a causal model are known under
    "gpt2", of others under "bert"; where these were not measured, the first family that was is taken.
    """

    def __init__(self, cluster: Cluster, measured: Measured, work: Workload) -> None:
        super().__init__(cluster, work.precision)
        table = measured.products.get(self.precision) or next(iter(measured.products.values()))
        self.sides, self.rates = ([*map(log, column)] for column in zip(*sorted(table.items()), strict=True))
        self.family = measured.families.get("gpt2" if work.spec.causal else "bert") or next(
            iter(measured.families.values())
        )
        counts = sorted({1, *measured.busy})
        slower = [measured.busy.get(count) for count in counts]
        near = min(work.gpus, cluster.node)
        self.products = _between(near, counts, [s.products if s else 1.0 for s in slower])
        self.others = _between(near, counts, [s.others if s else 1.0 for s in slower])

    def busy(self, kernel: Kernel) -> float:
        """Return the seconds of one of its `times`, once it has started."""
        return self._product(kernel) if kernel.shape[0] else self._other(kernel)

    def _product(self, kernel: Kernel) -> float:
        rate = self.family.attention
        if kernel.kind != "flash":
            side = log(kernel.batch * prod(kernel.shape)) / 3
            rate = exp(_between(side, self.sides, self.rates))
        return self.products * kernel.flops / kernel.times / rate

    def _other(self, kernel: Kernel) -> float:
        return self.others * kernel.bytes / self.family.moved.get(kernel.kind, self.stream)


def _between(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return y at `x` on the straight lines through points whose x rises; beyond the ends, the last y."""
    at = bisect_right(xs, x)
    if at in (0, len(xs)):
        return ys[max(0, at - 1)]
    slope = (ys[at] - ys[at - 1]) / (xs[at] - xs[at - 1])
    return slope * (x - xs[at - 1]) + ys[at - 1]
