"""The messages of one rank in a training step, from the model's description and the layout alone.

Tensor parallelism (Shoeybi et al., arXiv 1909.08053), sequence parallelism (Korthikanti et al., arXiv 2205.05198), ZeRO
(Rajbhandari et al., arXiv 1910.02054), context parallelism by gathered keys, pipelines that send the residual stream.
A message's bytes are those of the whole: what an all-gather makes, what a reduce-scatter begins with.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import takewhile
from math import prod
from typing import NamedTuple

from phalanx import optimizer
from phalanx.config import Config
from phalanx.heads.head import head_of
from phalanx.nn import logit_chunks
from phalanx.parallel import windows
from phalanx.parallel.data_parallel import BUCKET
from phalanx.parallel.mesh import Mesh
from phalanx.parallel.windows import Window
from phalanx.plan.rank import RankShard
from phalanx.spec.costs import WIDE, Collective, collectives, decoders
from phalanx.spec.partition import place, rows, shape


class Message(NamedTuple):
    """A collective, or one side of a message between two ranks."""

    kind: str  # all-reduce, all-gather, reduce-scatter, send, receive
    axes: str  # along which its ranks differ, as "dp tp"
    bytes: int  # of the whole


Messages = Counter[Message]

FORWARD, BACKWARD = 0, 1
CONJUGATES = {  # what the collectives of a layer say forward and backward
    "gather": ("all-gather", "reduce-scatter"), "scatter": ("reduce-scatter", "all-gather"),
    "copy": ("", "all-reduce"), "reduce": ("all-reduce", ""), "total": ("all-reduce", "all-reduce"),
}  # fmt: skip


def count_messages(times: int, kind: str, axes: str, *sizes: int, width: int = WIDE) -> Messages:
    """Count `times` messages for each size in `sizes` (elements); none without a kind or without axes."""
    return sum(
        (Counter({Message(kind, axes, size * width): times}) for size in sizes if kind and axes and times), Messages()
    )


class ExpectedMessages(RankShard):
    """The messages that a rank's step should send. `labelled`: positions of each micro-batch that meet the vocabulary;
    `device` sets how many rows of logits come at once.
    """

    def __init__(self, config: Config, mesh: Mesh, labelled: list[int], device: str = "cuda") -> None:
        super().__init__(config, mesh.pp.rank, mesh.tp.rank)
        self.mesh, self.labelled, self.device = mesh, labelled, device
        self.stream = self.positions * self.spec.hidden  # elements of a micro-batch's residual stream
        self.tp, self.data = self.axes("tp"), self.axes("dp", "cp")

    def axes(self, *names: str) -> str:
        """Return the named axes on which the layout has more than one rank, joined as in a message's name."""
        return " ".join(name for name in names if getattr(self.mesh, name).size > 1)

    def step(self) -> Messages:
        """Return all messages of a step."""
        sent = self.gradients() + self.weights() + self.neighbours() + self.overhead() + self.optimizer()
        for number, labelled in enumerate(self.labelled, 1):
            micro_batch = self.remainder if number == self.micro_batches else self
            sent += micro_batch.forward(labelled) + micro_batch.backward(labelled)
        return sent

    @cached_property
    def remainder(self) -> "ExpectedMessages":
        """Return the rank with the rows that are left for the last micro-batch."""
        if not (rows := self.rows % self.layout.micro_batch):
            return self
        layout = self.layout.model_copy(update={"micro_batch": rows})
        return ExpectedMessages(self.config.model_copy(update={"layout": layout}), self.mesh, [], self.device)

    def forward(self, labelled: int) -> Messages:
        """Return the messages of a forward pass: of embedding, blocks, loss; over cp see `keys`."""
        sent = count_messages(self.first, "reduce-scatter" if self.sequence else "all-reduce", self.tp, self.stream)
        sent += self.layers(FORWARD) + count_messages(self.last and self.sequence, "all-gather", self.tp, self.stream)
        for height in self.pieces(labelled):
            sent += count_messages(self.last, "all-reduce", self.tp, height, 2 * height)
        return sent + self.keys(FORWARD) + self.order() + self.spans(FORWARD)

    def layers(self, direction: int, inside: bool = False) -> Messages:
        """Return the collectives of all blocks over tp, or of those `inside` attention alone, without its last."""
        sent: Messages = Counter()
        for block, count in self.computed.items():
            listed: Iterable[Collective] = collectives(block, self.ranks)
            if inside:
                listed = takewhile(lambda each: each.kind not in ("scatter", "reduce"), listed)
            for kind, elements in listed:
                # in fp32 are the stream, and sums of squares; else it is what a product gave
                width = self.narrow if kind in ("scatter", "reduce") else WIDE
                sent += count_messages(
                    count, CONJUGATES[kind][direction], self.tp, self.positions * elements, width=width
                )
        return sent

    def order(self) -> Messages:
        """Return what cp gathers once in a stage, of all positions: who is before whom if causal, else padding; and
        those of one sequence for each mask of a window, of which a stage has one for each kind of rotary positions.
        """
        ring, width, axes = self.layout.context == "ring", 8 if self.spec.causal else 4, self.axes("cp")
        if ring and self.spec.causal:
            return Counter()
        sent = count_messages(len(self.stages), "all-gather", axes, self.positions * self.mesh.cp.size, width=width)
        for stage in self.stages:
            kinds = {block.attention.kind for block in stage.blocks}
            masks = 0 if ring else sum(window > 0 for _, window in kinds)
            sent += count_messages(masks, "all-gather", axes, self.config.data.sequence, width=8)
        return sent

    def spans(self, direction: int) -> Messages:
        """Return what a head that reads whole sequences sends over cp: one that seeks the answer in them logits,
        labels, padding; one that reads the mean of all tokens each rank's sum and its number of tokens.
        """
        axes, positions, head = self.axes("cp"), self.positions * self.mesh.cp.size, head_of(self.spec)
        if not self.last or head is None or not (head.whole or head.part.mean):
            return Counter()
        if head.part.mean:
            kind = "reduce-scatter" if direction == BACKWARD else "all-gather"
            sums = self.layout.micro_batch * self.mesh.cp.size * (self.spec.hidden + 1)
            return count_messages(1, kind, axes, sums)
        logits = head.part.width * positions
        if direction == BACKWARD:
            return count_messages(1, "reduce-scatter", axes, logits)
        return count_messages(1, "all-gather", axes, logits, positions) + count_messages(
            1, "all-gather", axes, positions, width=8
        )

    def pieces(self, labelled: int) -> list[int]:
        """Return how many rows of the logits are there at once, piece by piece: see `vocabulary_loss`."""
        columns, _ = self.decoder
        if not columns:
            return []
        height = logit_chunks.rows(self.device, columns)
        return [min(height, labelled - start) for start in range(0, labelled, height)]

    def backward(self, labelled: int) -> Messages:
        """Return the messages of a backward pass, the conjugates. Into the head: where the vocabulary follows the
        stream at once, as in GPT, of all of it; of the labelled positions where layers that every rank computes alike
        are between, as in BERT.
        """
        sent = self.keys(BACKWARD) + self.layers(BACKWARD) + self.recomputed() + self.spans(BACKWARD)
        if self.sequence:
            sent += count_messages(self.first, "all-gather", self.tp, self.stream)
        if not any(decoders(self.spec)):
            return sent
        matrices = (matrix for head in self.spec.heads for _, matrix in head.matrices())
        if self.sequence and all(matrix.outputs.axis == "vocab" for matrix in matrices):
            return sent + count_messages(self.last, "reduce-scatter", self.tp, self.stream)
        return sent + count_messages(self.last, "all-reduce", self.tp, labelled * self.spec.hidden)

    def recomputed(self) -> Messages:
        """Return the messages of the recomputation before backward: those of a block's forward pass, or of attention's
        without its last.
        """
        if self.layout.recompute == "none":
            return Counter()
        return self.layers(FORWARD, inside=self.layout.recompute == "attention") + self.keys(FORWARD)

    def keys(self, direction: int) -> Messages:
        """Return the messages of keys and values over cp: those of a block are gathered, and their gradients scattered;
        or both go around a ring, past ranks that windows do not reach, and around again with their gradients, which
        take one hop more to come home.
        """
        axes, ranks, sent = self.axes("cp"), self.mesh.cp.size, Messages()
        part = self.config.data.sequence // ranks
        for block, count in self.computed.items():
            both = self.positions * block.attention.costs().cached // self.mesh.tp.size
            if self.layout.context == "gather":
                kind = "all-gather" if direction == FORWARD else "reduce-scatter"
                sent += count_messages(2 * count, kind, axes, both // 2 * ranks, width=self.narrow)
                continue
            hops = ranks
            if window := block.attention.window:
                hops = len(windows.steps(ranks, part, Window(window, block.attention.causal)))
            home = hops * (hops > 1 and direction == BACKWARD)
            for kind in ("send", "receive"):
                sent += count_messages((hops - 1) * count, kind, axes, both, width=self.narrow)
                sent += count_messages(home * count, kind, axes, both)
        return sent

    def gradients(self) -> Messages:
        """Return the sums of gradients, once a step, however many micro-batches: over replicas, in ZeRO by blocks, in
        hybrid sharding of a shard over its copies; then what each rank of tp has of the gradients of what it applies to
        its own positions, and neighbours of key heads that they share.
        """
        shards, sent = self.shards, Messages()
        for elements in self.partial().values():
            sent += count_messages(1, "all-reduce", self.tp, elements)
        if shards == 1:
            return sum((count_messages(1, "all-reduce", self.data, size) for size in self.buckets()), start=sent)
        for size, times in self.groups():
            sent += count_messages(times, "reduce-scatter", self.data, size)
            sent += count_messages(times * (shards < self.mesh.data.size), "all-reduce", self.data, size // shards)
        return sent

    def partial(self) -> Counter[int]:
        """Return the elements of whose gradient ranks of tp have different terms, by how many ranks these are."""
        elements, shard = Counter[int](), self.mesh.shards.rank if self.sharded else 0
        for parameter in self.held:
            length = -(-shape(parameter, self.ranks)[0] // self.shards)
            for box in rows(place(parameter, self.ranks), length * shard, length):
                elements[box.alike] += prod(box.shape) * box.partial
        return +elements

    def groups(self) -> Iterator[tuple[int, int]]:
        """Yield the elements of what is sharded together, and how often: each block, and the rest, if there is one."""
        yield from ((self.block(block), count) for block, count in self.kinds.items())
        yield from ((rest, 1) for rest in self.rests)

    def buckets(self) -> list[int]:
        """Return the elements of the pieces in which replicated gradients are summed, the last parameters' first."""
        sizes = [0]
        for parameter in reversed(self.held):
            if sizes[-1] >= BUCKET:
                sizes.append(0)
            sizes[-1] += prod(shape(parameter, self.ranks))
        return sizes

    def weights(self) -> Messages:
        """Return the gathers of weights: ZeRO-2's once a step; ZeRO-3's in each micro-batch, a block's in each
        direction.

        In a pipeline torch's stages keep weights after a backward pass until a forward pass has used them again: of a
        block they are gathered for the forward passes that follow none and for the backward passes that follow a
        forward one, in any order of the micro-batches once more than there are of these; the rest once.
        """
        if not self.sharded:
            return Counter()
        passes, of_a_block = 1, 1
        if self.layout.shard == "zero3":
            passes, of_a_block = len(self.labelled), 2 * len(self.labelled)
            if self.mesh.pp.size > 1:
                passes, of_a_block = 1, len(self.labelled) + 1

        sent = count_messages(passes, "all-gather", self.data, *self.rests)
        for block, count in self.kinds.items():
            sent += count_messages(of_a_block * count, "all-gather", self.data, self.block(block))
        return sent

    def neighbours(self) -> Messages:
        """Return what stages send: over each boundary between those of two ranks the stream one way, its gradient the
        other, in each micro-batch; once a step the gradients of the two copies of the word embedding.
        """
        stream = self.stream // (self.mesh.tp.size if self.sequence else 1)
        sent: Messages = Counter()
        for kind in ("send", "receive"):
            sent += count_messages(self.boundaries * len(self.labelled), kind, self.axes("pp"), stream)
            sent += count_messages(self.twins, kind, self.axes("pp"), prod(self.decoder) // self.shards)
        return sent

    def overhead(self) -> Messages:
        """Return a step's small sums: the counts of labels; then, together, losses, the gradients' norm, the wish to
        stop.
        """
        everyone, losses = self.axes("pp", "dp", "cp", "tp"), len(self.spec.losses)
        return count_messages(1, "all-reduce", self.data, losses, width=8) + count_messages(
            1, "all-reduce", everyone, losses + 2
        )

    def optimizer(self) -> Messages:
        """Return what the optimizer asks of whole parameters, among the ranks that have parts of them."""
        axes = self.axes("dp", "cp", "tp") if self.sharded else self.tp
        return count_messages(1, "all-reduce", axes, *optimizer.messages(self.config.optim, self.held))
