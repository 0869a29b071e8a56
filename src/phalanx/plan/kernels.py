"""The kernels of a training step on one GPU, and how long each takes: a roofline for each kind.

A matrix product is cut into whole tiles, one for a multiprocessor at a time; fewer tiles than multiprocessors leave
some idle, and each tile loses a little to its start and end (`ramp`). It is not faster than memory brings its operands.
Everything else moves bytes. A kernel also takes a moment to start. What is counted: reads and writes of the tensors
that the operation cannot avoid, in the numbers it computes in.
"""

from functools import cache
from math import ceil, prod
from typing import NamedTuple

from phalanx.optimizer import OptimConfig, Product
from phalanx.plan.cluster import Cluster
from phalanx.plan.workload import Workload
from phalanx.spec import model
from phalanx.spec.costs import WIDE, norms_of, products
from phalanx.spec.partition import Ranks, local, widened

BYTES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "fp8": 2}  # of an element as kernels other than products move it
TILES = ((256, 128), (128, 128), (128, 64), (64, 64))
SIDE = 8  # columns that a tile could have had while it loads: small tiles reuse less of what they load
SPLITS = (1, 2, 4, 8)  # of k, for products of few tiles
FLASH = 0.7  # of a long product's speed that attention in one kernel reaches (Dao, arXiv 2307.08691: 50-73 % of peak)
GELU = {"fused": ((2, 1), (3, 1)), "split": ((4, 3), (5, 3))}  # passes and kernels, forward and backward
GATED = {"fused": ((3, 1), (5, 1)), "split": ((5, 2), (13, 4))}  # the same where the activation meets a gate
TURNED = 9, 7  # passes in fp32 and kernels of a rotation that is not fused; backward has one of each more


class Kernel(NamedTuple):
    """A kernel: `shape` is (m, n, k) of a product, empty for what only moves bytes; `times` of them come one by one."""

    kind: str
    bytes: float = 0.0
    shape: tuple[int, int, int] = (0, 0, 0)
    batch: int = 1
    times: int = 1

    @property
    def flops(self) -> float:
        """Return the floating-point operations of all `times` together."""
        return 2.0 * self.batch * self.times * prod(self.shape)


def product(kind: str, m: int, n: int, k: int, width: int, batch: int = 1, times: int = 1) -> Kernel:
    """Return a product of [m, k] with [k, n], elements of `width` bytes, `batch` of them in each of `times` kernels."""
    return Kernel(kind, width * batch * (m * k + k * n + m * n), (m, n, k), batch, times)


def gradients(kernel: Kernel) -> list[Kernel]:
    """Return the two products of a product's backward: the gradients of its input and of its other operand."""
    m, n, k = kernel.shape
    return [Kernel(kernel.kind, kernel.bytes, shape, kernel.batch, kernel.times) for shape in ((m, k, n), (k, n, m))]


class Block:
    """The kernels of a block of the model on one GPU for one micro-batch."""

    def __init__(self, work: Workload, block: model.Block) -> None:
        self.work, self.block, self.width = work, widened(block, work.tp), BYTES[work.precision]
        self.tokens = work.micro_batch * work.sequence // work.cp
        # between the tensor-parallel parts
        self.local_tokens = self.tokens // (work.tp if work.sequence_parallel else 1)
        self.heads = self.block.attention.heads / work.tp
        self.norms, self.norms_over_ranks = norms_of(self.block)
        self.scores = work.micro_batch * self.heads * (work.sequence // work.cp) * work.sequence

    def move(self, kind: str, elements: float, passes: float, times: int = 1) -> Kernel:
        """Return reads and writes of so many elements, counted together, in `times` kernels."""
        return Kernel(kind, elements * passes * self.width / times, times=times)

    def products(self) -> list[Kernel]:
        """Return the matrix products: queries, keys and values; the way out of attention; up; down."""
        made = products(self.block, self.tokens, ranks=self.work.ranks)
        return [product("matrix", self.tokens, each.n, each.k, self.width) for each in made]

    def attention(self) -> list[Kernel]:
        """Return attention's forward: scores, their softmax and dropout, and their product with the values."""
        work, pairs = self.work, max(1, round(self.work.micro_batch * self.heads))
        queries, whole, attention = work.sequence // work.cp, work.sequence, self.block.attention
        wide = attention.width
        if work.attention == "fused":
            moved = 2 * (attention.heads + attention.kv_heads) * wide  # queries and what they get, keys and values
            return [Kernel("flash", self.tokens * moved / work.tp * self.width, (queries, whole, 2 * wide), pairs)]
        both = [
            product("attention", queries, whole, wide, self.width, pairs),
            product("attention", queries, wide, whole, self.width, pairs),
        ]
        return [*both, *self.softmax(work.attention, forward=True)]

    def softmax(self, how: str, forward: bool) -> list[Kernel]:
        """Return the softmax with dropout: read and write, and the mask of a byte. Plain: also scaled, masked twice."""
        if how == "softmax" and self.work.micro_batch * self.heads % 4:
            how = "plain"  # Megatron's kernel takes four rows at a time, or nothing
        if forward:
            return [self.move("softmax", self.scores, 4.5 + (6 if how == "plain" else 0), 5 if how == "plain" else 2)]
        return [self.move("softmax", self.scores, 5.5 + (4 if how == "plain" else 0), 4 if how == "plain" else 2)]

    def pointwise(self, forward: bool) -> list[Kernel]:
        """Return the norms, the activation with its bias or its gate, two sums of bias, dropout and residual, heads put
        in order, normed, and turned by their positions.
        """
        h, t, attention, mlp = self.work.spec.hidden, self.work.tp, self.block.attention, self.block.feed_forward
        extra, kernels = (0, 0) if self.work.pointwise == "fused" else (4, 5)
        passes, times = (GATED if mlp.gated else GELU)[self.work.pointwise][not forward]
        stream = self.work.stream_bytes / self.width
        summed, normed = (2.5 + stream, 1 + stream) if forward else (2.5, 2 + 2 * stream)
        inner = self.move("gelu", self.tokens * mlp.width / t, passes, times)
        order = self.move(
            "order", self.tokens * attention.heads * attention.width / t, 2 if forward else 6, 1 if forward else 3
        )
        sums = self.move("sum", self.local_tokens * h, 2 * (summed + extra), 2 + kernels)
        count = self.norms
        norms = self.move("norm", self.local_tokens * h, count * normed, count if forward else 2 * count)
        heads = self.head_norms(forward) if attention.normed else []
        return [inner, order, sums, norms, *heads, *self.rotary(forward)]

    def head_norms(self, forward: bool) -> list[Kernel]:
        """Return the norms of queries and of keys: in a kernel each, or with casts of their own. Backward also reads
        the gradient, and sums that of the weights.
        """
        attention = self.block.attention
        elements = self.tokens * (attention.heads + attention.kv_heads) * attention.width / self.work.tp
        passes, times = (2, 1) if forward else (3, 2)
        if self.work.pointwise == "fused" or self.width == WIDE:
            return [self.move("norm", elements, passes, 2 * times)]
        moved = elements * (passes * WIDE + 2 * (WIDE + self.width))
        return [Kernel("norm", moved / (2 * times + 4), times=2 * times + 4)]

    def rotary(self, forward: bool) -> list[Kernel]:
        """Return queries and keys turned by cosines and sines in fp32: in a kernel each, or in one for each operation
        and cast. Values are copied, so that what all three were made of need not be kept.
        """
        attention, tp = self.block.attention, self.work.tp
        if attention.rope is None:
            return []

        turned = self.tokens * (attention.heads + attention.kv_heads) * attention.rope.width / tp
        angles = self.tokens * attention.rope.width / 2 * WIDE  # bytes of the cosines, and of the sines
        if self.work.pointwise == "fused":
            moved, times = 2 * self.width * turned + 2 * 2 * angles, 1
        else:
            passes, times = TURNED if forward else (TURNED[0] + 1, TURNED[1] + 1)
            casts = 2 * (self.width < WIDE)
            moved = (passes * WIDE + casts * (WIDE + self.width)) * turned + 2 * 4 * angles
            times += casts

        kernels = [Kernel("rotary", moved / (2 * times), times=2 * times)]
        values = self.tokens * attention.kv_heads * attention.width / tp
        return [*kernels, self.move("rotary", values, 2)] if forward else kernels

    def forward(self) -> list[Kernel]:
        """Return the kernels of one micro-batch's forward pass through the block."""
        return [*self.products(), *self.attention(), *self.pointwise(True)]

    def backward(self) -> list[Kernel]:
        """Return the kernels of its backward pass, with those of what is recomputed for it."""
        inner = self.attention()
        if self.work.attention == "fused":
            flash = inner[0]
            back = [Kernel("flash", 2 * flash.bytes, (*flash.shape[:2], flash.shape[2] * 5 // 2), flash.batch)]
        else:
            back = [g for k in inner if k.shape[0] for g in gradients(k)] + self.softmax(self.work.attention, False)
        matrices = [g for k in self.products() for g in gradients(k)]
        turned = [*(self.head_norms(True) if self.block.attention.normed else []), *self.rotary(forward=True)]
        again = {"none": [], "attention": [*turned, *inner], "block": self.forward()}[self.work.recompute]
        return [*again, *matrices, *back, *self.pointwise(False)]


def embedding(work: Workload, forward: bool) -> list[Kernel]:
    """Return the kernels of the embeddings: rows looked up, positions added, dropout; backward sums into the rows."""
    size = work.micro_batch * work.sequence // work.cp * work.spec.hidden * BYTES[work.precision]
    return [Kernel("embedding", size * 7 / 3, times=3)] if forward else [Kernel("embedding", size * 2, times=2)]


def head(work: Workload, forward: bool) -> list[Kernel]:
    """Return the products of the head and its loss, which is in fp32: the logits cast, their largest found,
    exponentiated, summed; backward makes and casts the gradient. Of several heads the first: what others, such as
    BERT's of pairs, ask of a whole sequence is next to nothing.
    """
    width, tokens = BYTES[work.precision], work.micro_batch * work.sequence // work.cp
    rows = {"token": tokens, "label": max(1, round(tokens * work.labelled)), "sequence": work.micro_batch}
    made = [product("head", rows[per], n, k, width) for per, n, k in _head(work.spec, work.ranks)]
    last, columns, _ = made[-1].shape
    matrices = made if forward else [kernel for each in reversed(made) for kernel in gradients(each)]
    moved = (width + 24) if forward else (width + 12)
    return [*matrices, Kernel("loss", last * columns * moved / 5, times=5)]


@cache
def _head(spec: model.Spec, ranks: Ranks) -> list[tuple[str, int, int]]:
    """Return for each matrix of the first head the rows it is applied to, its outputs here with padding, its inputs."""
    matrices = (matrix for _, matrix in spec.heads[0].matrices())
    return [(each.per, local(each.outputs, ranks, padding=True), each.inputs.size) for each in matrices]


def gather(work: Workload, parameters: float) -> list[Kernel]:
    """Return the kernels that each micro-batch costs the weights: a cast for use where they are kept wider, and the
    addition of their gradients to the sum.
    """
    width = BYTES[work.precision]
    casts = (work.stream_bytes + width) * (2 if work.stream_bytes > width else 0)
    adds = (width + 2 * work.gradient_bytes) if work.adds and work.micro_batches > 1 else 0
    return [Kernel("gradients", parameters * (casts + adds))]


def optimizer(work: Workload, parameters: float) -> list[Kernel]:
    """Return the kernels that update `parameters` elements on this GPU: gradients are unscaled and their norm taken,
    weights and state read and written, and weights cast.
    """
    cast = BYTES[work.precision] if work.precision != "fp32" else 0
    once = _moved(work.spec, work.optimizer) + 2 * work.gradient_bytes + cast
    return [Kernel("optimizer", parameters * (once + 2 * work.gradient_bytes) / 8, times=8)]


@cache
def _moved(spec: model.Spec, optim: OptimConfig) -> float:
    """Return the bytes that an optimizer moves of an element, on average of the whole model."""
    parameters = [*spec.parameters()]
    moved = sum(optim.moved(parameter) * parameter.elements for parameter in parameters)
    return moved / sum(parameter.elements for parameter in parameters)


def optimizer_product(work: Workload, shape: Product, times: int) -> Kernel:
    """Return the optimizer's own product of whole parameters, so many of one shape."""
    return product("optimizer", *shape, BYTES[work.precision], times=times)


class Timer:
    """How long kernels take on a cluster's GPU."""

    def __init__(self, cluster: Cluster, precision: str) -> None:
        self.gpu, self.fitted = cluster.gpu, cluster.fitted
        known, self.precision = self.gpu.peak, precision
        self.peak = known[precision] * self.fitted.power
        self.wider = known["bf16" if precision == "fp8" else precision] * self.fitted.power  # of what fp8 leaves alone
        self.stream = self.gpu.bandwidth * self.fitted.stream * self.fitted.power
        self.side = SIDE * self.peak / (max(known.values()) * self.fitted.power)
        self.known: dict[Kernel, float] = {}

    def __call__(self, kernel: Kernel) -> float:
        """Return the seconds of a kernel."""
        if (seconds := self.known.get(kernel)) is None:
            seconds = self.known[kernel] = kernel.times * (self.busy(kernel) + self.fitted.kernel)
        return seconds

    def busy(self, kernel: Kernel) -> float:
        """Return the seconds of one of its `times`, once it has started."""
        return max(kernel.bytes / self.stream, self._multiply(kernel) if kernel.shape[0] else 0.0)

    def total(self, kernels: list[Kernel]) -> float:
        """Return the seconds of all, one after the other."""
        return sum(map(self, kernels))

    def _multiply(self, kernel: Kernel) -> float:
        m, n, k = kernel.shape
        peak = self.peak if kernel.kind == "matrix" else self.wider  # attention and the head are never in fp8
        speed = peak * self.fitted.matrix / self.gpu.units  # of one unit
        if kernel.kind == "flash":
            return kernel.flops / (speed * self.gpu.units * FLASH)
        best = float("inf")
        for high, wide in TILES:
            tiles = kernel.batch * ceil(m / high) * ceil(n / wide)
            area = (high + self.side) * (wide + self.side)
            for split in SPLITS:
                waves = max(1.0, tiles * split / self.gpu.units)
                best = min(best, waves * 2 * area * (k / split + self.fitted.ramp) / speed)
                if waves > 1 or k < 512 * split:
                    break
        return best
