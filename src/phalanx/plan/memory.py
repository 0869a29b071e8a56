"""The most memory that a rank needs in a step, by kind, from the sizes alone.

What a block keeps for backward is counted as Korthikanti et al. (arXiv 2205.05198, section 4) do, for what this program
keeps: the residual stream in fp32, the operands of products in the precision of products, weights cast once a use, no
masks. Three moments compete: the loss, with all activations and a piece of the logits; the end of backward, with all
gradients; and the first block's backward of a rank that has no loss. Blocks are not compiled.
"""

from functools import cache, cached_property
from itertools import accumulate
from math import prod
from typing import NamedTuple

from phalanx.config import Config
from phalanx.nn import logit_chunks
from phalanx.plan import pipeline
from phalanx.plan.rank import RankShard
from phalanx.spec.costs import WIDE, saved
from phalanx.spec.model import Attention, Block, Layer


class Memory(NamedTuple):
    """Bytes at the fullest moment of a step."""

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    temporary: float


def memory(config: Config, pp: int = 0, device: str = "cuda") -> Memory:
    """Peak memory of a step, in bytes by kind, on a rank at place `pp` of its pipeline. How many rows of logits there
    are at once depends on `device`.
    """
    rank = _Rank(config, pp, device)
    return max((rank.loss(), rank.backward(), rank.end()) if rank.last else (rank.backward(), rank.end()), key=sum)


@cache
def _alive(schedule: str, pp: int, chunks: int, count: int, rank: int) -> list[tuple[int, int]]:
    """How many passes of a stage have been forward, and how many of these backward but for weights, over a step, where
    neither is less than at another time."""
    if pp == 1:
        return [(1, 0)]
    operations = pipeline.order(schedule, pp, chunks, count, rank)
    apart = any(kind == "W" for kind, _, _ in operations)
    changes = {"F": (1, 0), "B": (0, 1) if apart else (-1, 0), "W": (-1, -1)}
    held = accumulate((changes[kind] for kind, _, _ in operations), lambda held, by: (held[0] + by[0], held[1] + by[1]))
    most: list[tuple[int, int]] = []
    for forward, backward in sorted(set(held), reverse=True):
        if not most or backward > most[-1][1]:
            most.append((forward, backward))
    return most


@cache
def _split(layer: Layer) -> int:
    """Elements that a layer keeps of each token and that ranks share."""
    return sum(each.elements for each in layer.costs().saved if each.held == "split")


class _Rank(RankShard):
    def __init__(self, config: Config, pp: int, device: str) -> None:
        super().__init__(config, pp)
        self.mine = self.positions * self.spec.hidden // (self.layout.tp if self.sequence else 1)  # of the stream
        self.device = device
        self.casts = self.narrow if self.narrow < WIDE else 0  # bytes of a weight as products take it
        count = min(self.micro_batches, 4 * self.layout.pp)
        self.alive = _alive(self.layout.schedule, self.layout.pp, len(self.stages), count, pp)

    def fullest(self, kept: float, moving: float) -> float:
        """The most bytes that micro-batches hold which have been forward: `kept` until backward, and where the weights'
        gradients are made later, `moving` as well until then."""
        return max(forward * kept + backward * moving for forward, backward in self.alive)

    def kept(self, block: Block, recompute: str) -> float:
        """Bytes that a block keeps for backward of a micro-batch."""
        if recompute == "block":
            return WIDE * self.mine
        if recompute == "attention":
            return self.saved(block) - self.saved(block.attention) + WIDE * self.mine
        return self.saved(block) + self.beside(block.attention)

    def saved(self, part: Block | Layer) -> float:
        """Bytes that a block or a layer keeps of its own, and of its weights as products take them."""
        tokens, weights = saved(part, self.ranks, self.narrow)
        return self.positions * tokens + weights

    def inner(self, layer: Layer) -> float:
        """Bytes of what a layer keeps between its first product and its last, which ranks share."""
        return self.narrow * self.positions * _split(layer) / self.layout.tp

    def beside(self, attention: Attention) -> float:
        """Bytes of what attention keeps besides: scores that are stored, and other ranks' keys and values."""
        kept = (WIDE + 1 + self.narrow) * self.pairs(attention)
        if self.layout.cp > 1:
            ranks = self.layout.cp if self.layout.context == "gather" else 1
            kept += ranks * self.narrow * self.positions * attention.costs().cached / self.layout.tp
        return kept

    def pairs(self, attention: Attention) -> float:
        """Pairs of queries and keys whose scores are stored: all where some are dropped."""
        pairs = self.positions * self.config.data.sequence * attention.heads / self.layout.tp
        return pairs if attention.drop else 0.0

    def inside(self, block: Block) -> float:
        """Bytes of a block's backward beyond what was kept: what is computed again, and gradients on their way."""
        again = 0.0
        if self.layout.recompute == "block":
            again = self.kept(block, "none")
        elif self.layout.recompute == "attention":
            again = self.inner(block.attention) + self.beside(block.attention)
        stored = (3 * WIDE - self.narrow) * self.pairs(block.attention)
        scores = stored - self.saved(block.feed_forward)  # while the written-out formula goes forward
        return again + max(self.inner(block.feed_forward), scores) + 2 * WIDE * self.mine

    def moving(self, block: Block) -> float:
        """Bytes of the gradients that a block's weights wait for, where theirs are made later."""
        outputs = sum(matrix.outputs.size for _, matrix in block.matrices())
        return self.narrow * self.positions * outputs / self.layout.tp + 4 * WIDE * self.mine

    @cached_property
    def stage(self) -> float:
        """Bytes that a stage keeps for backward of a micro-batch, on average of the rank's."""
        blocks = sum(count * self.kept(block, self.layout.recompute) for block, count in self.computed.items())
        return (blocks + WIDE * self.mine * self.first) / len(self.stages)

    @cached_property
    def activations(self) -> float:
        """Bytes that all micro-batches keep, when most of it is there."""
        if self.layout.schedule != "zbv":
            return self.fullest(self.stage, 0)
        moving = sum(count * self.moving(block) for block, count in self.computed.items())
        return self.fullest(self.stage, moving / len(self.stages))

    def received(self) -> float:
        """Bytes of the places, one for each micro-batch of a step, where neighbours' messages arrive."""
        return WIDE * self.mine * self.boundaries * self.micro_batches

    def states(self) -> tuple[float, float]:
        """Bytes of weights and of what the optimizer keeps of them."""
        return WIDE * self.parameters / self.shards, self.state / self.shards

    @cached_property
    def largest(self) -> int:
        """Elements of its largest block."""
        return max(map(self.block, self.kinds))

    def gradients(self, elements: int) -> float:
        """Bytes when backward has made so many, or all if there was a micro-batch before."""
        if self.micro_batches > 1:
            return WIDE * self.parameters  # replicas talk after the last
        return WIDE * elements / self.shards

    def gathered(self) -> float:
        """Bytes of weights, beyond the shards, that replicas have gathered."""
        if self.shards == 1:
            return 0.0
        return WIDE * (self.parameters if self.layout.shard == "zero2" else self.rest + 2 * self.largest)

    def loss(self) -> Memory:
        """The last micro-batch meets the head, and the vocabulary, if that has one, in pieces."""
        weights, moments = self.states()
        columns, width = self.decoder
        rows = min(self.labels, logit_chunks.rows(self.device, columns)) if columns else 0
        piece = rows * columns * (WIDE + (2 * self.casts or WIDE))
        weight = columns * width * (WIDE + self.casts + WIDE * (rows < self.labels))
        per = next(matrix.per for _, matrix in self.spec.heads[0].matrices())
        read = {"token": self.positions, "label": self.labels, "sequence": self.layout.micro_batch}[per]
        head = 2 * WIDE * read * self.spec.hidden + WIDE * self.mine
        return Memory(
            weights + self.gathered(),
            self.gradients(0),
            moments,
            self.activations + head + piece,
            weight + self.received(),
        )

    def backward(self) -> Memory:
        """The last block of the fullest stage is in backward."""
        weights, moments = self.states()
        waits = self.last and (self.micro_batches == 1 or (self.first and self.spec.tied))
        held = WIDE * prod(self.decoder) * waits  # the head's gradient, for the embedding's
        return Memory(
            weights + self.gathered(),
            self.gradients(self.largest) + held,
            moments,
            self.activations,
            max(map(self.inside, self.computed)) + self.received(),
        )

    def end(self) -> Memory:
        """All gradients are there, those of the words twice, or thrice, until they are one: in the backward of the
        first block, and when a pipeline's two copies are added."""
        weights, moments = self.states()
        words, left = WIDE * self.words, max(0.0, self.activations - self.stage)
        moving = max(words * (self.first + (self.last and self.spec.tied)) + left, 2 * words * self.twins)
        moving += WIDE * self.mine + self.received()
        made = sum(count * self.block(block) for block, count in self.kinds.items())
        return Memory(weights + self.gathered(), self.gradients(made), moments, left, moving - left)
