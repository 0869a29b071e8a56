"""How long a training step takes on a cluster, and where the time goes.

A stage's forward and backward are sums of kernels and of collectives that wait for them, or the time to launch them all
if that is longer. The pipeline is simulated. Gradients are summed after backward, or under it as far as it lasts.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import accumulate, pairwise
from math import inf, log, prod, sqrt
from operator import mul
from typing import NamedTuple

from phalanx.optimizer import OptimConfig, Product, messages, products
from phalanx.plan import kernels, measured, pipeline
from phalanx.plan.cluster import Cluster
from phalanx.plan.kernels import Kernel, Timer
from phalanx.plan.network import Group, send
from phalanx.plan.workload import Workload
from phalanx.spec import partition
from phalanx.spec.costs import WIDE, counted, decoders, kinds
from phalanx.spec.model import Block, Spec

# Set by hand, for all machines; what belongs to one is in its cluster file.
HIDDEN = 0.9  # of what goes on under compute costs nothing; the rest is units and memory that it takes from the kernels
BUCKET = 25e6  # bytes that are summed together, as torch's DistributedDataParallel does
LAST = 1 / 8  # of the gradients have no backward left to hide under
SOFT = 5  # how sharply the longer of computing and launching rules
SMALL = 1e6  # bytes: messages of the optimizer that are fewer together are next to nothing
SPREAD = 0.01  # deviation between GPUs: a step waits for the slowest of n, about sqrt(2 ln n) deviations late


@dataclass(frozen=True)
class Prediction:
    """A predicted step: seconds in all and by part, on the GPU that has most to do.

    The parts are kinds of kernels, communication along an axis as far as compute does not hide it, the pipeline's
    bubble, and waiting for launches and for slower GPUs.
    """

    seconds: float
    parts: dict[str, float]
    flops: float  # the model's, of all GPUs
    tflops: float  # the model's, of one GPU, 10¹² a second
    mfu: float

    @property
    def bound(self) -> str:
        """Return the part that takes longest."""
        return max(self.parts, key=lambda part: self.parts[part])


@dataclass(frozen=True)
class Pass:
    """A block's or stage's forward or backward of a micro-batch: seconds by part."""

    parts: Mapping[str, float]
    launches: int
    host: float  # seconds of a launch

    @cached_property
    def seconds(self) -> float:
        """Return the time of the GPU's work or of launching it, whichever is longer; a little more than either where
        they are close, since now one waits and now the other.
        """
        return float((sum(self.parts.values()) ** SOFT + (self.launches * self.host) ** SOFT) ** (1 / SOFT))


class _Sizes(NamedTuple):
    """Parameters of a whole block of each kind, of the word embedding, and of the head over the vocabulary."""

    blocks: list[int]
    words: int  # with padding, as of the head
    head: int


def predict(work: Workload, cluster: Cluster) -> Prediction:
    """Return the predicted step of `work`."""
    return Step(work, cluster).prediction()


class Step:
    """The parts of a step. A timer that another step had on as many GPUs of a node knows its kernels."""

    def __init__(self, work: Workload, cluster: Cluster, timer: Timer | None = None) -> None:
        self.work, self.cluster = work, cluster
        self.timer = timer or measured.timer(cluster, work)
        self.hidden = cluster.measured.hidden if cluster.measured else HIDDEN
        self.tp = Group(cluster, work.tp, 1)
        self.cp = Group(cluster, work.cp, work.tp)
        self.data = Group(cluster, work.dp * work.cp, work.tp)
        self.width = kernels.BYTES[work.precision]
        self.tokens = tokens = work.micro_batch * work.sequence // work.cp
        self.kinds, self.sizes = [*kinds(work.spec)], _sizes(work.spec)
        self.wide = tokens * work.spec.hidden * work.stream_bytes  # bytes of a micro-batch's residual stream
        self.narrow = tokens * work.spec.hidden * self.width  # bytes of as many elements that a product gave

    @cached_property
    def blocks(self) -> list[dict[str, Pass]]:
        """Return the forward and backward of a micro-batch, of a block of each kind."""
        return [*map(self._block, self.kinds)]

    def _block(self, part: Block) -> dict[str, Pass]:
        block, again = kernels.Block(self.work, part), 2 * (self.work.recompute == "block")
        keys = self.tokens * block.block.attention.costs().cached // 2 * self.width  # bytes, and as many of values
        norms, passes = block.norms_over_ranks, 1 + (self.work.recompute != "none")
        return {
            "forward": self._pass(block.forward(), keys, [self.narrow] * 2, norms),
            "backward": self._pass(block.backward(), keys, [self.wide] * 2 + [self.narrow] * again, norms * passes),
        }

    def _pass(self, list_of: list[Kernel], keys: float, pairs: Sequence[float], norms: int) -> Pass:
        """Return the pass of a block's kernels, with pairs of collectives over tp, of so many bytes where they are one
        all-reduce, two for each pass through the block, and one for each of `norms` that are over all heads; keys and
        values over cp.
        """
        parts: defaultdict[str, float] = defaultdict(float)
        for kernel in list_of:
            parts[kernel.kind] += self.timer(kernel)
        parts["pause"] = len(pairs) // 2 * self.cluster.fitted.pause
        launches = sum(kernel.times for kernel in list_of)
        if self.work.tp > 1:
            if self.work.sequence_parallel:
                busy = len(pairs) * (self.tp.scatter(self.wide) + self.tp.scatter(self.narrow))
            else:
                busy = sum(map(self.tp.all_reduce, pairs))
            parts["tp"] += busy - (self.hidden * min(busy, parts["matrix"]) if self.work.tp_overlap else 0.0)
            parts["tp"] += norms * self.tp.all_reduce(self.tokens * WIDE) if norms else 0.0
            launches += len(pairs) * (2 if self.work.sequence_parallel else 1) + norms
        if self.work.cp > 1:
            parts["cp"] += len(pairs) * self.cp.scatter(keys / self.work.tp * self.work.cp)
            launches += len(pairs)
        return Pass(parts, launches, self.cluster.fitted.host)

    def stages(self, direction: str) -> list[Pass]:
        """Return the pass of each whole stage for one micro-batch."""
        last, timed = self.work.stages - 1, cache(partial(self._stage, direction))
        return [timed(blocks, stage == 0, stage == last) for stage, blocks in enumerate(self.spread)]

    @cached_property
    def spread(self) -> list[tuple[int, ...]]:
        """Return how many blocks of each kind each stage has."""
        if len(self.kinds) == 1:
            return [(blocks,) for blocks in self.work.spread]
        ends = [*accumulate(self.work.spread, initial=0)]
        stages = [counted(self.work.spec.blocks[first:end]) for first, end in pairwise(ends)]
        return [tuple(stage.get(kind, 0) for kind in self.kinds) for stage in stages]

    def _stage(self, direction: str, blocks: tuple[int, ...], first: bool, last: bool) -> Pass:
        parts, launches = defaultdict[str, float](float), 0
        for count, block in zip(blocks, self.blocks, strict=True):
            launches += count * block[direction].launches
            for kind, seconds in block[direction].parts.items():
                parts[kind] += count * seconds
        ends: list[Kernel] = []
        if first:
            ends += kernels.embedding(self.work, direction == "forward")
        if last:
            ends += kernels.head(self.work, direction == "forward")
        if direction == "backward":
            ends += kernels.gather(self.work, self.parameters(blocks, first, last))
        for kernel in ends:
            parts[kernel.kind] += self.timer(kernel)
        return Pass(parts, launches + sum(kernel.times for kernel in ends), self.cluster.fitted.host)

    def parameters(self, blocks: tuple[int, ...], first: bool, last: bool) -> float:
        """Return the parameters on a GPU of a stage, of its blocks and of tables of words; all others are next to
        nothing.
        """
        sizes, tied = self.sizes, self.work.spec.tied
        ends = sizes.words * (first or (last and tied)) + sizes.head * (last and not tied)
        inside: int = sum(map(mul, blocks, sizes.blocks))
        return (inside + ends) / self.work.tp

    def rank_parameters(self) -> float:
        """Return the parameters on the GPU that has most."""
        work = self.work
        where = pipeline.ranks(work.schedule, work.pp, work.chunks)
        held = [0.0] * work.pp
        for stage, (rank, blocks) in enumerate(zip(where, self.spread, strict=True)):
            held[rank] += self.parameters(blocks, stage == 0, stage == work.stages - 1)
        return max(held)

    def replicas(self, forward: float, backward: float, parameters: float) -> float:
        """Return the seconds that nothing hides, of those that gradients, and weights in ZeRO, need over the replicas.

        Gradients are summed under the last micro-batch's backward, weights gathered under the first one's forward.
        """
        work = self.work
        if self.data.size == 1:
            return 0.0
        size = parameters * work.gradient_bytes
        latency = size // BUCKET * self.data.latency
        if work.shard == "none":
            return self._exposed(self.data.all_reduce(size) + latency, backward)
        gathered = self.data.scatter(parameters * work.stream_bytes) + latency
        exposed = self._exposed(self.data.scatter(size) + latency, backward) + self._exposed(gathered, forward)
        if work.shard == "zero3":
            again = (2 * work.micro_batches - 1) * gathered
            exposed += self._exposed(again, work.micro_batches * (forward + backward))
        return exposed

    def least(self, blocks: int) -> float:
        """Return the seconds that the weights of so many blocks cost at the least in a step."""
        parameters = blocks * min(self.sizes.blocks) / self.work.tp
        adds = self.work.micro_batches * self.timer.total(kernels.gather(self.work, parameters))
        return adds + self.replicas(inf, inf, parameters) + self.update(parameters)

    def update(self, parameters: float) -> float:
        """Return the seconds of the optimizer, of so many parameters before replicas share them."""
        ways = (self.work.shard_ways or self.data.size) if self.work.shard != "none" else 1
        return self.timer.total(kernels.optimizer(self.work, parameters / ways))

    def whole_matrices(self) -> float:
        """Return the seconds of what the optimizer does with whole parameters, on the rank that has most of them: it
        multiplies them, after they have been put together from the parts of all ranks that share them.
        """
        work, most = self.work, 0.0
        made, sent = _whole_matrix_costs(work.spec, work.optimizer, (len(work.spec.blocks),), (0,))
        if not made and sum(sent) < SMALL:
            return 0.0  # most optimizers, told without a look at each rank

        shards = (work.shard_ways or self.data.size) if work.shard != "none" else 1
        shared = Group(self.cluster, self.tp.size * shards, 1)
        where = pipeline.ranks(work.schedule, work.pp, work.chunks)
        for rank in range(work.pp):
            stages = tuple(stage for stage, its in enumerate(where) if its == rank)
            made, sent = _whole_matrix_costs(work.spec, work.optimizer, work.spread, stages)
            multiplied = sum(self.timer(kernels.optimizer_product(work, shape, times)) for shape, times in made)
            most = max(most, multiplied + sum(map(shared.all_reduce, sent)))
        return most

    def _exposed(self, busy: float, under: float) -> float:
        return busy - self.hidden * min(busy * (1 - LAST), under) if self.work.overlap else busy

    def prediction(self) -> Prediction:
        work, count = self.work, self.work.micro_batches
        passes = self.stages("forward"), self.stages("backward")
        slowest = 1 + SPREAD * sqrt(2 * log(work.gpus))
        forward, backward = (tuple(slowest * stage.seconds for stage in stages) for stages in passes)

        hop = 0.0
        if work.pp > 1:
            ranks = work.tp if work.sequence_parallel or work.scattered else 1
            hop = send(self.cluster, self.wide / ranks, work.tp * work.cp * work.dp)
            hop += self.tp.scatter(self.wide) if work.scattered and not work.sequence_parallel else 0.0

        flow = pipeline.simulate(work.schedule, work.pp, work.chunks, count, forward, backward, hop)
        parameters = self.rank_parameters()
        update = self.update(parameters) + self.whole_matrices()
        exposed, tied = self.replicas(flow.forward, flow.backward, parameters), self._tied()
        seconds = flow.seconds + exposed + update + tied

        parts = defaultdict(float, dp=exposed, optimizer=update, tied=tied)
        busy = [0.0] * work.pp
        for stage, rank in enumerate(flow.ranks):
            busy[rank] += count * (forward[stage] + backward[stage])
        for stage, rank in enumerate(flow.ranks):
            if rank == busy.index(max(busy)):
                for stages in passes:
                    for kind, value in stages[stage].parts.items():
                        parts[kind] += count * value

        parts["bubble"] = flow.seconds - max(busy)
        parts["waiting"] = seconds - sum(parts.values())
        rate = work.flops() / seconds / work.gpus
        kept = {kind: value for kind, value in parts.items() if value > 1e-9 * seconds}
        return Prediction(seconds, kept, work.flops(), rate / 1e12, rate / self.cluster.gpu.peak[self.timer.precision])

    def _tied(self) -> float:
        """Return the seconds to sum the word embedding's gradients of the first and the last stage."""
        if self.work.pp == 1 or self.work.schedule == "zbv" or not self.work.spec.tied:
            return 0.0
        size = self.sizes.words / self.work.tp * self.work.gradient_bytes
        return 2 * send(self.cluster, size, self.work.tp * self.work.cp * self.work.dp)


@cache
def _whole_matrix_costs(
    spec: Spec, optim: OptimConfig, spread: tuple[int, ...], stages: tuple[int, ...]
) -> tuple[list[tuple[Product, int]], list[int]]:
    """Return an optimizer's products of the parameters of a rank's stages, by shape and number, and the bytes that it
    sends of them. Of words that a rank has twice one counts.
    """
    parts = (partition.stage(spec, number, spread) for number in stages)
    held = [*{each.name: each for part in parts for each in part.parameters()}.values()]
    shapes = Counter(shape for parameter in held for shape in products(optim, parameter))
    return [*shapes.items()], [WIDE * size for size in messages(optim, held)]


@cache
def _sizes(spec: Spec) -> _Sizes:
    assert spec.embeddings is not None
    (table,) = spec.embeddings.token.parameters()
    head = sum(matrix.inputs.size * matrix.outputs.stored for matrix in decoders(spec))
    blocks = [sum(parameter.elements for parameter in block.parameters()) for block in kinds(spec)]
    return _Sizes(blocks, prod(table.shape), head)
