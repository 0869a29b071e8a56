"""What a rank has to say in one training step, from the methods and the sizes of the model alone.

Tensor parallelism (Shoeybi et al., arXiv 1909.08053), sequence parallelism (Korthikanti et al., arXiv 2205.05198), ZeRO
(Rajbhandari et al., arXiv 1910.02054), context parallelism by gathered keys, pipelines that send the residual stream.
A message's bytes are those of the whole: what an all-gather makes, what a reduce-scatter begins with.
"""

from collections import Counter
from typing import NamedTuple

from phalanx.config import Config
from phalanx.nn import pieces
from phalanx.parallel.data import BUCKET
from phalanx.parallel.mesh import Mesh
from phalanx.plan.portion import Portion


class Message(NamedTuple):
    """A collective, or one side of a message between two ranks."""

    kind: str  # all-reduce, all-gather, reduce-scatter, send, receive
    axes: str  # along which its ranks differ, as "dp tp"
    bytes: int  # of the whole


Messages = Counter[Message]

WIDE = 4  # bytes of a number of the residual stream, of weights, gradients, losses


def say(times: int, kind: str, axes: str, *sizes: int, width: int = WIDE) -> Messages:
    """So many messages of each of these numbers of elements; none along an axis of one rank."""
    return Counter({Message(kind, axes, size * width): times for size in sizes} if axes and times else {})


class Expected(Portion):
    """`labelled`: for each micro-batch, how many of this rank's positions meet the vocabulary. The device says in how
    large pieces."""

    def __init__(self, config: Config, mesh: Mesh, labelled: list[int], device: str = "cuda") -> None:
        super().__init__(config, mesh.pp.rank, mesh.tp.rank)
        self.mesh, self.labelled, self.device = mesh, labelled, device
        self.losses = 2 if self.bert else 1
        self.tp, self.data = self.axes("tp"), self.axes("dp", "cp")

    def axes(self, *names: str) -> str:
        """Those that are longer than one rank."""
        return " ".join(name for name in names if getattr(self.mesh, name).size > 1)

    def step(self) -> Messages:
        """All that is said."""
        said = self.gradients() + self.weights() + self.neighbours() + self.overhead() + self.optimizer()
        for labelled in self.labelled:
            said += self.forward(labelled) + self.backward(labelled)
        return said

    def forward(self, labelled: int) -> Messages:
        """Messages of a forward pass: two conjugate pairs a block, embedding, loss; over cp see `keys`."""
        stream, pairs = self.positions * self.hidden, 2 * self.blocks
        out = "reduce-scatter" if self.sequence else "all-reduce"
        said = say(pairs, out, self.tp, stream, width=self.narrow) + say(self.first, out, self.tp, stream)
        if self.sequence:
            said += say(pairs + self.last, "all-gather", self.tp, stream)
        for rows in self.pieces(labelled):
            said += say(self.last, "all-reduce", self.tp, rows, 2 * rows)
        return said + self.keys(1) + self.order()

    def order(self) -> Messages:
        """Once in a stage, of the positions of all ranks of cp: who is before whom in GPT, BERT's padding."""
        if self.layout.context == "ring" and not self.bert:
            return Counter()
        positions = self.positions * self.mesh.cp.size
        return say(len(self.stages), "all-gather", self.axes("cp"), positions, width=4 if self.bert else 8)

    def pieces(self, labelled: int) -> list[int]:
        """Rows of the logits that are there at once: see `vocabulary_loss`."""
        height = pieces.height(self.device, self.words // self.hidden)
        return [min(height, labelled - start) for start in range(0, labelled, height)]

    def backward(self, labelled: int) -> Messages:
        """The pairs the other way. Into the head: GPT's follows the stream at once, BERT's takes the masked positions
        after layers that every rank computes alike."""
        stream = self.positions * self.hidden
        said = self.keys(-1)
        if self.sequence and not self.bert:
            said += say(self.last, "reduce-scatter", self.tp, stream)
        else:
            said += say(self.last, "all-reduce", self.tp, labelled * self.hidden)
        said += self.recomputed(stream)
        if not self.sequence:
            return said + say(2 * self.blocks, "all-reduce", self.tp, stream)
        said += say(2 * self.blocks, "reduce-scatter", self.tp, stream) + say(self.first, "all-gather", self.tp, stream)
        return said + say(2 * self.blocks, "all-gather", self.tp, stream, width=self.narrow)

    def recomputed(self, stream: int) -> Messages:
        """What is said again for backward: a block's forward pass, or attention's without what it gives back."""
        if self.layout.recompute == "none":
            return Counter()
        pairs = 2 * self.blocks * (self.layout.recompute == "block")
        said = say(pairs, "reduce-scatter" if self.sequence else "all-reduce", self.tp, stream, width=self.narrow)
        return said + say((pairs or self.blocks) * self.sequence, "all-gather", self.tp, stream) + self.keys(1)

    def keys(self, direction: int) -> Messages:
        """Keys and values of a block are gathered, and their gradients scattered; or both go around a ring, and around
        again with their gradients, which take one hop more to come home."""
        axes, ranks, mine = self.axes("cp"), self.mesh.cp.size, self.positions * self.hidden // self.mesh.tp.size
        if self.layout.context == "gather":
            kind = "all-gather" if direction > 0 else "reduce-scatter"
            return say(2 * self.blocks, kind, axes, mine * ranks, width=self.narrow)
        said: Messages = Counter()
        for kind in ("send", "receive"):
            said += say((ranks - 1) * self.blocks, kind, axes, 2 * mine, width=self.narrow)
            said += say(ranks * self.blocks * (direction < 0), kind, axes, 2 * mine)
        return said

    def gradients(self) -> Messages:
        """Once a step, however many micro-batches: the sum over replicas, in ZeRO by blocks, in hybrid sharding of a
        shard over its copies; then what sequence parallelism has of norms and biases."""
        shards = self.shards
        said = say(self.sequence, "all-reduce", self.tp, self.positionwise // shards)
        if shards == 1:
            return sum((say(1, "all-reduce", self.data, size) for size in self.buckets()), start=said)
        for times, size in (self.blocks, self.block), (1, self.rest):
            said += say(times, "reduce-scatter", self.data, size)
            said += say(times * (shards < self.mesh.data.size), "all-reduce", self.data, size // shards)
        return said

    def buckets(self) -> list[int]:
        """Elements of the pieces in which replicated gradients are summed, the last parameters' first."""
        sizes = [0]
        for rows, width in reversed(self.shapes):
            if sizes[-1] >= BUCKET:
                sizes.append(0)
            sizes[-1] += rows * width
        return sizes

    def weights(self) -> Messages:
        """ZeRO-2 gathers them once a step, ZeRO-3 in each micro-batch, those of a block for each direction."""
        if self.layout.shard == "none":
            return Counter()
        passes, blocks = (len(self.labelled), 2) if self.layout.shard == "zero3" else (1, 1)
        said = say(passes * blocks * self.blocks, "all-gather", self.data, self.block)
        return said + say(passes, "all-gather", self.data, self.rest)

    def neighbours(self) -> Messages:
        """Over each boundary between stages of two ranks the stream one way, its gradient the other, in each
        micro-batch; once a step the gradients of the two copies of the word embedding."""
        stream = self.positions * self.hidden // (self.mesh.tp.size if self.sequence else 1)
        twins = self.first != self.last
        said: Messages = Counter()
        for kind in ("send", "receive"):
            said += say(self.boundaries * len(self.labelled), kind, self.axes("pp"), stream)
            said += say(twins, kind, self.axes("pp"), self.words // self.shards)
        return said

    def overhead(self) -> Messages:
        """The labels counted; then, together, losses, the gradients' norm, and whether someone was told to stop."""
        everyone = self.axes("pp", "dp", "cp", "tp")
        return say(1, "all-reduce", self.data, self.losses, width=8) + say(1, "all-reduce", everyone, self.losses + 2)

    def optimizer(self) -> Messages:
        """LAMB: norms of all matrices, and of their updates. Muon: each whole matrix of a block."""
        axes = self.tp if self.layout.shard == "none" else self.axes("dp", "cp", "tp")
        square = self.hidden**2
        if self.config.optim.name == "lamb":
            return say(2, "all-reduce", axes, 4 * self.blocks + (6 if self.bert else 2))
        if self.config.optim.name == "muon":
            said = say(self.blocks, "all-reduce", axes, 3 * square, square)
            return said + say(2 * self.blocks, "all-reduce", axes, 4 * square)
        return Counter()

    @property
    def positionwise(self) -> int:
        """Elements of the parameters that are applied at each position of the residual stream: norms, two biases of a
        block, tables of positions and segments.
        """
        norm = 2 * self.hidden * self.model.norm_first
        tables = sum(rows * width for rows, width in self.tables)
        return 6 * self.hidden * self.blocks + self.first * tables + self.last * norm
