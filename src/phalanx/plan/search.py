"""Every layout that a number of GPUs allows, whether it fits, and which are fastest.

All combinations are put in the order of the least time that they could take: what their blocks alone compute and say
with no bubble. They are worked out in that order, and the search ends when the least time of the next is longer than
what was found. Of recompute only as much is taken as it needs to fit, since each more costs time.
"""

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any, NamedTuple

from phalanx.config import Config, LayoutConfig
from phalanx.models.family import spec_of
from phalanx.parallel import placement
from phalanx.plan import measured
from phalanx.plan.cluster import Cluster
from phalanx.plan.kernels import Timer
from phalanx.plan.memory import Memory, memory
from phalanx.plan.predict import Prediction, Step
from phalanx.plan.workload import Workload
from phalanx.spec.costs import kinds
from phalanx.train.layouts import filled, fills, parts_of, rows_together
from phalanx.train.misfit import layout_misfit
from phalanx.train.schedule import batch_sizes

ROOM = 0.92  # of a GPU's memory that a step may fill; the rest is the context's, the communicator's and lost in pieces
RECOMPUTE = ("none", "attention", "block")

Pins = dict[str, Any]  # keys of the layout section that the user has decided


class Candidate(NamedTuple):
    """A layout whose recompute is not decided yet."""

    tp: int
    sequence_parallel: bool
    cp: int
    pp: int
    schedule: str
    chunks: int
    dp: int
    shard: str
    micro_batch: int


@dataclass(frozen=True)
class Planned:
    """A layout worked out: the memory of its fullest rank, and the time if that fits."""

    config: Config
    memory: Memory
    prediction: Prediction


@dataclass
class SearchResult:
    """The fastest layouts first; how many there are, how many were worked out, and how many of those do not fit."""

    best: list[Planned]
    layouts: int = 0
    worked_out: int = 0
    too_large: int = 0
    smallest: tuple[float, LayoutConfig] | None = None  # bytes of the layout that needs least, of those worked out


def search(config: Config, cluster: Cluster, gpus: int, pins: Pins, most: int = 10) -> SearchResult:
    """Return the `most` fastest layouts of `config` on so many GPUs; of its own layout only the `pins` count."""
    return _Search(config, cluster, gpus, pins).run(most)


class _Search:
    """One search, with the parts of a step's least time that candidates share."""

    def __init__(self, config: Config, cluster: Cluster, gpus: int, pins: Pins) -> None:
        self.config, self.cluster, self.gpus, self.pins = config, cluster, gpus, pins
        self.pinned, self.timers = LayoutConfig(**pins), dict[int, Timer]()
        self.recompute = self.choices("recompute", RECOMPUTE)
        self.spec = spec_of(config.model)
        self.single = self.work(self._with(LayoutConfig(dp=1, micro_batch=1)))
        self.block, self.weights, self.pipe = cache(self._block), cache(self._weights), cache(self._pipe)

    def run(self, most: int) -> SearchResult:
        """Return the `most` fastest layouts. Of equal ones that come first which candidates() gives first."""
        result = SearchResult([])
        numbered = enumerate(self.candidates())
        candidates = sorted((self.least(candidate), number, candidate) for number, candidate in numbered)
        result.layouts = len(candidates)

        best: list[tuple[float, int, Planned]] = []  # a heap, the slowest on top, of equals the later
        for least, number, candidate in candidates:
            if len(best) == most and (not best or least > -best[0][0]):
                break
            result.worked_out += 1
            planned = self.work_out(candidate, result)
            if planned is None:
                continue
            entry = (-planned.prediction.seconds, -number, planned)
            (heapq.heappush if len(best) < most else heapq.heappushpop)(best, entry)

        result.best = [planned for _, _, planned in sorted(best, reverse=True)]
        return result

    def choices(self, key: str, values: Sequence[Any]) -> Sequence[Any]:
        """Return the values of a layout's key that the user allows."""
        if key not in self.pins:
            return values
        return [value for value in values if value == self.pins[key]]

    def candidates(self) -> Iterator[Candidate]:
        """Yield all layouts that divide the model, the batch and the GPUs."""
        most = max(block.attention.heads for block in kinds(self.spec))
        together = rows_together(self.config)
        for tp, pp, cp in product(*(self.choices(key, _divisors(self.gpus)) for key in ("tp", "pp", "cp"))):
            if self.gpus % (tp * pp * cp) or not self.choices("dp", [dp := self.gpus // (tp * pp * cp)]):
                continue
            ways = self.choices("sequence_parallel", [True, False] if tp > 1 else [True])
            sequence = [way for way in ways if self.config.data.sequence % parts_of(tp, cp, way) == 0]
            if tp > most or self.config.train.batch % dp or not sequence:
                continue

            shards = self.choices("shard", ["none", "zero2", "zero3"] if dp * cp > 1 else ["none"])
            sizes = {"tp": tp, "sequence_parallel": sequence[-1], "cp": cp, "pp": pp, "dp": dp, "micro_batch": together}
            schedules = [each for each in self.schedules(pp) if self.possible(sizes, *each)]

            rows = [size // dp for size in batch_sizes(self.config.train)]
            every = [size for size in _divisors(self.config.train.batch // dp) if size % together == 0]
            micro_batches = self.choices("micro_batch", every)
            for micro_batch, (schedule, chunks) in product(micro_batches, schedules):
                if pp > 1 and not all(fills(each, micro_batch, pp, schedule) for each in rows):
                    continue
                for parallel, shard in product(sequence, shards):
                    if (schedule, shard) != ("zbv", "zero3"):
                        yield Candidate(tp, parallel, cp, pp, schedule, chunks, dp, shard, micro_batch)

    def possible(self, sizes: dict[str, Any], schedule: str, chunks: int) -> bool:
        """Return whether the trainer takes a layout of these sizes."""
        layout = self.pinned.model_copy(update={**sizes, "schedule": schedule, "chunks": chunks})
        return not layout_misfit(self._with(layout), self.gpus)

    def schedules(self, pp: int) -> list[tuple[str, int]]:
        """Return the allowed schedules with their chunks; of interleaved those that divide the layers evenly."""
        layers = len(self.spec.blocks)
        if pp == 1:
            every = [("1f1b", 1)]
        else:
            chunks = [n for n in range(2, layers // pp + 1) if layers % (n * pp) == 0]
            every = [("1f1b", 1), *(("interleaved", n) for n in chunks), ("zbv", 1)]
        allowed = self.choices("schedule", [name for name, _ in every])
        counts = self.choices("chunks", [chunks for _, chunks in every])
        return [(name, chunks) for name, chunks in every if name in allowed and chunks in counts]

    def least(self, candidate: Candidate) -> float:
        """Return the least seconds: of the busiest rank's blocks, the pipeline's bubble, gradients and weights."""
        busiest, bubble = self.pipe(candidate.pp, candidate.schedule, candidate.chunks)
        count = self.config.train.batch // (candidate.dp * candidate.micro_batch)
        block = self.block(
            candidate.tp, candidate.sequence_parallel, candidate.cp, candidate.micro_batch, self.recompute[0]
        )
        weights = self.weights(
            candidate.tp, candidate.cp, candidate.pp, candidate.dp, candidate.shard, candidate.micro_batch
        )
        return (count * busiest + bubble) * block + weights

    def _pipe(self, pp: int, schedule: str, chunks: int) -> tuple[int, int]:
        """Return the blocks of the busiest rank, and those of the pipeline's bubble."""
        layout = LayoutConfig().model_copy(update={"pp": pp, "schedule": schedule, "chunks": chunks})
        spread = placement.assign_layers(self.spec, placement.stage_count(layout))
        busiest = max(sum(spread[n] for n in placement.stage_numbers(layout, rank)) for rank in (0, pp // 2))
        return busiest, (pp - 1) * min(spread) * (schedule != "zbv")

    def _weights(self, tp: int, cp: int, pp: int, dp: int, shard: str, micro_batch: int) -> float:
        """Return the seconds of a step's gradients, of which replicas hide most, and of the optimizer."""
        work = replace(self.single, tp=tp, cp=cp, pp=pp, dp=dp, shard=shard, micro_batch=micro_batch)
        return self.step(work).least(len(self.spec.blocks) // pp)

    def _block(self, tp: int, sequence: bool, cp: int, micro_batch: int, recompute: str) -> float:
        work = replace(
            self.single, tp=tp, sequence_parallel=sequence, cp=cp, micro_batch=micro_batch, recompute=recompute
        )
        return min(sum(each.seconds for each in passes.values()) for passes in self.step(work).blocks)

    def step(self, work: Workload) -> Step:
        """Return the step of a workload, with the timer that all share which use as many GPUs of a node."""
        near = min(work.gpus, self.cluster.node)
        if near not in self.timers:
            self.timers[near] = measured.timer(self.cluster, work)
        return Step(work, self.cluster, self.timers[near])

    def work_out(self, candidate: Candidate, result: SearchResult) -> Planned | None:
        """Return a layout with as little recompute as fits; None if nothing does. `result` counts what is too large."""
        layout = self.pinned.model_copy(update=candidate._asdict())
        for recompute in self.recompute:
            if layout.schedule == "zbv" and recompute != "none":
                break  # torch's zbv asks for each weight's gradient apart, and computes the block again for each
            config = filled(self._with(layout.model_copy(update={"recompute": recompute})), self.gpus)
            needed = max((memory(config, pp) for pp in {0, layout.pp - 1}), key=sum)
            if result.smallest is None or sum(needed) < result.smallest[0]:
                result.smallest = sum(needed), config.layout
            if sum(needed) <= ROOM * self.cluster.gpu.memory:
                return Planned(config, needed, self.step(self.work(config)).prediction())
        result.too_large += 1
        return None

    def work(self, config: Config) -> Workload:
        """Return a run's workload, with compiled blocks where a schedule takes them."""
        work = Workload.of(config)
        return work if config.layout.schedule == "zbv" else replace(work, pointwise="fused")

    def _with(self, layout: LayoutConfig) -> Config:
        return self.config.model_copy(update={"layout": layout})


@cache
def _divisors(number: int) -> list[int]:
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})
