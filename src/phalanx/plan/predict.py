"""How long a training step takes on a cluster, and where the time goes.

A stage's forward and backward are sums of kernels and of collectives that wait for them, or the time to launch them all
if that is longer. The pipeline is simulated. Gradients are summed after backward, or under it as far as it lasts.
"""

from collections import Counter
from dataclasses import dataclass
from math import log, sqrt

from phalanx.plan import kernels, pipeline
from phalanx.plan.cluster import Cluster
from phalanx.plan.kernels import Kernel, Timer
from phalanx.plan.links import Group, send
from phalanx.plan.work import Work

HIDDEN = 0.9  # of a bucket's sum that goes on under backward costs nothing: the rest is the kernels' units and memory it takes
SOFT = 6
BUCKET = 25e6  # bytes that are summed together (as torch's DistributedDataParallel does by default)
SPREAD = 0.01  # deviation of a GPU from the mean: a step waits for the slowest of n, some sqrt(2 ln n) deviations late
BUCKETS = 8  # the last one has no backward to hide under


@dataclass(frozen=True)
class Prediction:
    """Of one step: seconds in all and by part, on the GPU that has most to do."""

    seconds: float
    parts: dict[str, float]
    flops: float  # the model's, of all GPUs
    tflops: float  # the model's, of one GPU, 10¹² a second
    mfu: float

    @property
    def bound(self) -> str:
        """The part that takes longest."""
        return max(self.parts, key=lambda part: self.parts[part])


@dataclass(frozen=True)
class Pass:
    """A stage's forward or backward of a micro-batch: seconds by part."""

    parts: Counter[str]
    launches: int

    def seconds(self, host: float) -> float:
        """Of the GPU or of launching, whichever is longer; near each other, where now one waits and now the other, a
        little more than either."""
        return (sum(self.parts.values()) ** SOFT + (self.launches * host) ** SOFT) ** (1 / SOFT)


def predict(work: Work, cluster: Cluster) -> Prediction:
    """A step of `work`."""
    step = Step(work, cluster)
    return step.prediction()


class Step:
    """The parts of a step."""

    def __init__(self, work: Work, cluster: Cluster) -> None:
        self.work, self.cluster = work, cluster
        self.timer = Timer(cluster, work.precision)
        self.tp = Group(cluster, work.tp, 1)
        self.cp = Group(cluster, work.cp, work.tp)
        self.data = Group(cluster, work.dp * work.cp, work.tp)
        self.width = kernels.BYTES[work.precision]
        block = kernels.Block(work)
        self.stream = block.tokens * work.hidden * self.width  # bytes of a micro-batch's residual stream as it is sent
        self.block = {
            "forward": self._pass(block.forward(), pairs=2),
            "backward": self._pass(block.backward(), pairs=2 + 2 * (work.recompute == "block")),
        }

    def _pass(self, list_of: list[Kernel], pairs: int) -> Pass:
        """Kernels of a block, and `pairs` of collectives over tp; keys and values over cp."""
        parts: Counter[str] = Counter()
        for kernel in list_of:
            parts[kernel.kind] += self.timer(kernel)
        launches = sum(kernel.times for kernel in list_of)
        if self.work.tp > 1:
            one = 2 * self.tp.scatter(self.stream) if self.work.sequence_parallel else self.tp.all_reduce(self.stream)
            parts["tp"] += pairs * one - (HIDDEN * min(pairs * one, parts["matrix"]) if self.work.tp_overlap else 0.0)
            launches += pairs * (2 if self.work.sequence_parallel else 1)
        if self.work.cp > 1:
            parts["cp"] += pairs * self.cp.scatter(self.stream / self.work.tp * self.work.cp)
            launches += pairs
        return Pass(parts, launches)

    def stage(self, stage: int, direction: str) -> Pass:
        """All of a stage for one micro-batch."""
        blocks, one = self.work.spread[stage], self.block[direction]
        parts = Counter({kind: blocks * seconds for kind, seconds in one.parts.items()})
        ends: list[Kernel] = []
        if stage == 0:
            ends += kernels.embedding(self.work, direction == "forward")
        if stage == self.work.stages - 1:
            ends += kernels.head(self.work, direction == "forward")
        if direction == "backward":
            ends += kernels.gather(self.work, self.parameters(stage))
        for kernel in ends:
            parts[kernel.kind] += self.timer(kernel)
        return Pass(parts, blocks * one.launches + sum(kernel.times for kernel in ends))

    def parameters(self, stage: int) -> float:
        """On a GPU of the stage."""
        work = self.work
        ends = work.vocab * work.hidden * ((stage == 0) + (stage == work.stages - 1 and work.stages > 1))
        return (work.spread[stage] * work.block_parameters + ends) / work.tp

    def rank_parameters(self) -> float:
        """On the GPU that has most."""
        work = self.work
        where = pipeline.ranks(work.schedule, work.pp, work.chunks)
        held: Counter[int] = Counter()
        for stage, rank in enumerate(where):
            held[rank] += self.parameters(stage)  # type: ignore[assignment]
        return max(held.values())

    def replicas(self, forward: float, backward: float, parameters: float) -> float:
        """Seconds that nothing hides, of those that gradients, and weights in ZeRO, need over the replicas.

        Gradients are summed under the last micro-batch's backward, weights gathered under the first one's forward.
        """
        work = self.work
        if self.data.size == 1:
            return 0.0
        size = parameters * work.gradient_bytes
        latency = size // BUCKET * self.data.latency
        if work.shard == "none":
            return self._exposed(self.data.all_reduce(size) + latency, backward)
        gathered = self.data.scatter(parameters * self.width) + latency
        exposed = self._exposed(self.data.scatter(size) + latency, backward) + self._exposed(gathered, forward)
        if work.shard == "zero3":
            again = (2 * work.micro_batches - 1) * gathered
            exposed += self._exposed(again, work.micro_batches * (forward + backward))
        return exposed

    def _exposed(self, busy: float, under: float) -> float:
        return busy - HIDDEN * min(busy * (1 - 1 / BUCKETS), under) if self.work.overlap else busy

    def prediction(self) -> Prediction:
        work, host = self.work, self.cluster.fitted.host
        stages = range(work.stages)
        ahead = [self.stage(stage, "forward") for stage in stages]
        back = [self.stage(stage, "backward") for stage in stages]
        slowest = 1 + SPREAD * sqrt(2 * log(work.gpus))
        forward, backward = [slowest * p.seconds(host) for p in ahead], [slowest * p.seconds(host) for p in back]
        hop = 0.0
        if work.pp > 1:
            size = self.stream / (work.tp if work.sequence_parallel else 1)
            hop = send(self.cluster, size, work.tp * work.cp * work.dp)
        count = work.micro_batches
        flow = pipeline.simulate(work.schedule, work.pp, work.chunks, count, tuple(forward), tuple(backward), hop)
        parameters = self.rank_parameters()
        ways = (work.shard_ways or self.data.size) if work.shard != "none" else 1
        update = self.timer.total(kernels.optimizer(work, parameters / ways))
        exposed = self.replicas(flow.last_forward, flow.last_backward, parameters)
        seconds = flow.seconds + exposed + update + self._tied()
        parts: Counter[str] = Counter()
        busiest = max(range(work.pp), key=lambda rank: sum(f + b for f, b, r in zip(forward, backward, flow.ranks, strict=True) if r == rank))
        for stage, rank in enumerate(flow.ranks):
            if rank == busiest:
                for p, total in (ahead[stage], forward[stage]), (back[stage], backward[stage]):
                    for kind, value in p.parts.items():
                        parts[kind] += count * value
                    parts["host"] += count * (total - sum(p.parts.values()))
        parts["bubble"] = max(0.0, flow.seconds - count * sum(f + b for f, b, r in zip(forward, backward, flow.ranks, strict=True) if r == busiest))
        parts["dp"], parts["optimizer"], parts["tied"] = exposed, update, self._tied()
        flops = work.flops()
        rate = flops / seconds / work.gpus
        return Prediction(seconds, {k: v for k, v in parts.items() if v > 0}, flops, rate / 1e12, rate / self.timer.peak)

    def _tied(self) -> float:
        """The word embedding's gradients of the first and the last stage are summed."""
        if self.work.pp == 1 or self.work.schedule == "zbv":
            return 0.0
        size = self.work.vocab * self.work.hidden / self.work.tp * self.work.gradient_bytes
        return 2 * send(self.cluster, size, self.work.tp * self.work.cp * self.work.dp)
