"""Every layout that a number of GPUs allows, whether it fits, and which are fastest.

All combinations are put in the order of the least time that they could take: what their blocks alone compute and say
with no bubble. They are worked out in that order, and the search ends when the least time of the next is longer than
what was found. Of recompute only as much is taken as it needs to fit, since each more costs time.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

from phalanx.config import Config, LayoutConfig
from phalanx.errors import InputError
from phalanx.parallel import division
from phalanx.plan.cluster import Cluster
from phalanx.plan.memory import Memory, memory
from phalanx.plan.predict import Prediction, Step
from phalanx.plan.work import Work
from phalanx.train.lay_out import lay_out

ROOM = 0.92  # of a GPU's memory that a step may fill; the rest is the context's, the communicator's and lost in pieces
RECOMPUTE = ("none", "attention", "block")

Pins = dict[str, Any]  # keys of the layout section that the user has decided


@dataclass(frozen=True)
class Planned:
    """A layout worked out: the memory of its fullest rank, and the time if that fits."""

    config: Config
    memory: Memory
    prediction: Prediction


@dataclass
class Found:
    """The fastest first; how many layouts there are, how many were worked out, and how many of those do not fit."""

    best: list[Planned]
    layouts: int = 0
    worked_out: int = 0
    too_large: int = 0
    smallest: tuple[float, LayoutConfig] | None = None  # bytes of the layout that needs least, of those worked out


def search(config: Config, cluster: Cluster, gpus: int, pins: Pins, most: int = 10) -> Found:
    """The `most` fastest layouts of `config` on so many GPUs; its own layout says only what `pins` names."""
    return _Search(config, cluster, gpus, pins).run(most)


class _Search:
    def __init__(self, config: Config, cluster: Cluster, gpus: int, pins: Pins) -> None:
        self.config, self.cluster, self.gpus, self.pins = config, cluster, gpus, pins
        self.block, self.weights, self.pipe = cache(self._block), cache(self._weights), cache(self._pipe)

    def run(self, most: int) -> Found:
        found = Found([])
        candidates = [(self.least(layout), number, layout) for number, layout in enumerate(self.layouts())]
        candidates.sort()
        found.layouts = len(candidates)
        best: list[tuple[float, int, Planned]] = []  # a heap, the slowest on top
        for least, number, layout in candidates:
            if len(best) == most and (not best or least > -best[0][0]):
                break
            found.worked_out += 1
            planned = self.work_out(layout, found)
            if planned is None:
                continue
            entry = (-planned.prediction.seconds, -number, planned)
            (heapq.heappush if len(best) < most else heapq.heappushpop)(best, entry)
        found.best = [planned for _, _, planned in sorted(best, reverse=True)]
        return found

    def choices(self, key: str, values: Sequence[Any]) -> Sequence[Any]:
        """Those that the user allows."""
        if key not in self.pins:
            return values
        return [value for value in values if value == self.pins[key]]

    def layouts(self) -> Iterator[LayoutConfig]:
        """All that divide, without a say on recompute."""
        base = LayoutConfig(**self.pins)
        for tp, pp, cp in product(*(self.choices(key, _divisors(self.gpus)) for key in ("tp", "pp", "cp"))):
            if self.gpus % (tp * pp * cp) or not self.choices("dp", [dp := self.gpus // (tp * pp * cp)]):
                continue
            if tp > self.config.model.heads or self.config.train.batch % dp:
                continue
            rows = self.config.train.batch // dp
            sequence = self.choices("sequence_parallel", [True, False] if tp > 1 else [True])
            shards = self.choices("shard", ["none", "zero2", "zero3"] if dp * cp > 1 else ["none"])
            for micro_batch, (schedule, chunks) in product(
                self.choices("micro_batch", _divisors(rows)), self.schedules(pp)
            ):
                sizes = {"tp": tp, "pp": pp, "cp": cp, "dp": dp, "micro_batch": micro_batch}
                layout = base.model_copy(update={**sizes, "schedule": schedule, "chunks": chunks})
                try:
                    lay_out(self._with(layout.model_copy(update={"sequence_parallel": sequence[-1]})), self.gpus)
                except InputError:
                    continue
                for parallel, shard in product(sequence, shards):
                    if (schedule, shard) == ("zbv", "zero3"):
                        continue
                    yield layout.model_copy(update={"sequence_parallel": parallel, "shard": shard})

    def schedules(self, pp: int) -> list[tuple[str, int]]:
        """With their chunks; interleaved, what divides the layers evenly."""
        layers = self.config.model.layers
        if pp == 1:
            every = [("1f1b", 1)]
        else:
            chunks = [n for n in range(2, layers // pp + 1) if layers % (n * pp) == 0]
            every = [("1f1b", 1), *(("interleaved", n) for n in chunks), ("zbv", 1)]
        allowed = self.choices("schedule", [name for name, _ in every])
        counts = self.choices("chunks", [chunks for _, chunks in every])
        return [(name, chunks) for name, chunks in every if name in allowed and chunks in counts]

    def least(self, layout: LayoutConfig) -> float:
        """Seconds, at the least: the blocks of the busiest rank, the pipeline's bubble, gradients and weights."""
        busiest, bubble = self.pipe(layout.pp, layout.schedule, layout.chunks)
        recompute = self.choices("recompute", RECOMPUTE)[0]
        count = self.config.train.batch // (layout.dp * layout.micro_batch)
        one = self.block(layout.tp, layout.sequence_parallel, layout.cp, layout.micro_batch, recompute)
        return (count * busiest + bubble) * one + self.weights(layout.tp, layout.pp, layout.cp, layout.shard, count)

    def _pipe(self, pp: int, schedule: str, chunks: int) -> tuple[int, int]:
        """Blocks of the busiest rank, and those of the pipeline's bubble."""
        layout = LayoutConfig().model_copy(update={"pp": pp, "schedule": schedule, "chunks": chunks})
        spread = division.spread(self.config.model, division.stages_of(layout))
        busiest = max(sum(spread[n] for n in division.numbers(layout, rank)) for rank in (0, pp // 2))
        return busiest, (pp - 1) * min(spread) * (schedule != "zbv")

    def _weights(self, tp: int, pp: int, cp: int, shard: str, count: int) -> float:
        """Seconds of a step's gradients, of which replicas hide most, and of the optimizer."""
        dp = self.gpus // (tp * pp * cp)
        rows = self.config.train.batch // dp
        sizes = {"tp": tp, "pp": pp, "cp": cp, "dp": dp, "shard": shard, "micro_batch": rows // count}
        layout = LayoutConfig().model_copy(update=sizes)
        step = Step(self.work(self._with(layout)), self.cluster)
        return step.least(self.config.model.layers // pp)

    def _block(self, tp: int, sequence_parallel: bool, cp: int, micro_batch: int, recompute: str) -> float:
        sizes = {"tp": tp, "sequence_parallel": sequence_parallel, "cp": cp, "dp": 1, "micro_batch": micro_batch}
        layout = LayoutConfig().model_copy(update={**sizes, "recompute": recompute})
        step = Step(self.work(self._with(layout)), self.cluster)
        return sum(each.seconds(self.cluster.fitted.host) for each in step.block.values())

    def work_out(self, layout: LayoutConfig, found: Found) -> Planned | None:
        """With as little recompute as fits; None if nothing does."""
        for recompute in self.choices("recompute", RECOMPUTE):
            if layout.schedule == "zbv" and recompute != "none":
                break  # torch's zbv asks for each weight's gradient apart, and computes the block again for each
            config = lay_out(self._with(layout.model_copy(update={"recompute": recompute})), self.gpus)
            needed = max((memory(config, pp) for pp in {0, layout.pp - 1}), key=sum)
            if found.smallest is None or sum(needed) < found.smallest[0]:
                found.smallest = sum(needed), config.layout
            if sum(needed) <= ROOM * self.cluster.gpu.memory:
                return Planned(config, needed, Step(self.work(config), self.cluster).prediction())
        found.too_large += 1
        return None

    def work(self, config: Config) -> Work:
        """With compiled blocks, where a schedule takes them."""
        work = Work.of(config)
        return work if config.layout.schedule == "zbv" else replace(work, pointwise="fused")

    def _with(self, layout: LayoutConfig) -> Config:
        return self.config.model_copy(update={"layout": layout})


@cache
def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
