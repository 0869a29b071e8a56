"""The most memory that a rank needs in a step, by kind, from the sizes alone.

What a block keeps for backward is counted as Korthikanti et al. (arXiv 2205.05198, section 4) do, for what this program
keeps: the residual stream in fp32, the operands of products in the precision of products, weights cast once a use, no
masks. Three moments compete: the loss, with all activations and a piece of the logits; the end of backward, with all
gradients; and the first block's backward of a rank that has no loss. Blocks are not compiled.
"""

from functools import cache, cached_property
from itertools import accumulate
from typing import NamedTuple

from phalanx.config import Config
from phalanx.nn import pieces
from phalanx.plan import pipeline
from phalanx.plan.portion import Portion

WIDE = 4  # bytes of a weight, of a gradient, of an element of the residual stream


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


class _Rank(Portion):
    def __init__(self, config: Config, pp: int, device: str) -> None:
        super().__init__(config, pp)
        self.stream = self.positions * self.hidden  # elements of a micro-batch, whole over tp
        self.mine = self.stream // (self.layout.tp if self.sequence else 1)
        self.device = device
        self.casts = self.narrow if self.narrow < WIDE else 0  # bytes of a weight as products take it
        pairs = self.positions * config.data.sequence * self.model.heads / self.layout.tp
        self.pairs = pairs * (self.model.attention_dropout > 0)  # of queries and keys, where their scores are stored
        count = min(self.micro_batches, 4 * self.layout.pp)
        self.alive = _alive(self.layout.schedule, self.layout.pp, len(self.stages), count, pp)

    def fullest(self, kept: float, moving: float) -> float:
        """The most bytes that micro-batches hold which have been forward: `kept` until backward, and where the weights'
        gradients are made later, `moving` as well until then."""
        return max(forward * kept + backward * moving for forward, backward in self.alive)

    def kept(self, recompute: str) -> float:
        """Bytes that a block keeps for backward of a micro-batch."""
        width, tp = self.narrow, self.layout.tp
        if recompute == "block":
            return WIDE * self.mine
        kept = 2 * WIDE * self.mine + self.mlp()  # what the norms begin with, or what the sub-layers do
        if recompute == "attention":
            return kept + WIDE * self.mine
        return kept + width * self.stream + self.casts * 4 * self.hidden**2 / tp + self.attended()

    def mlp(self) -> float:
        """Bytes of what goes into and out of up and into down, and of their weights as products take them."""
        ffn, tp = self.model.ffn or 4 * self.hidden, self.layout.tp
        return self.narrow * self.stream * (1 + 2 * ffn / self.hidden / tp) + 2 * self.casts * self.hidden * ffn / tp

    def attended(self) -> float:
        """Bytes of what attention keeps: queries, keys, values and what it gives."""
        layout, part = self.layout, self.narrow * self.stream / self.layout.tp
        kept = 4 * part
        kept += (WIDE + 1 + self.narrow) * self.pairs
        if layout.cp > 1:
            kept += 2 * part * (layout.cp if layout.context == "gather" else 1)
        return kept

    def inside(self) -> float:
        """Bytes of a block's backward beyond what was kept: what is computed again, and gradients on their way."""
        ffn = self.model.ffn or 4 * self.hidden
        again = 0.0
        if self.layout.recompute == "block":
            again = self.kept("none")
        elif self.layout.recompute == "attention":
            again = self.attended()
        moving = 2 * self.narrow * self.stream * ffn / self.hidden / self.layout.tp
        scores = (3 * WIDE - self.narrow) * self.pairs - self.mlp()  # while the written-out formula goes forward
        return again + max(moving, scores) + 2 * WIDE * self.mine

    @cached_property
    def stage(self) -> float:
        """Bytes that a stage keeps for backward of a micro-batch, on average of the rank's."""
        return (self.blocks * self.kept(self.layout.recompute) + WIDE * self.mine * self.first) / len(self.stages)

    @cached_property
    def activations(self) -> float:
        """Bytes that all micro-batches keep, when most of it is there."""
        ffn = self.model.ffn or 4 * self.hidden
        moving = self.narrow * self.stream * (5 + ffn / self.hidden) / self.layout.tp + 4 * WIDE * self.mine
        return self.fullest(self.stage, self.blocks / len(self.stages) * moving)

    def received(self) -> float:
        """Bytes of the places, one for each micro-batch of a step, where neighbours' messages arrive."""
        return WIDE * self.mine * self.boundaries * self.micro_batches

    def states(self) -> tuple[float, float]:
        """Bytes of weights and of moments."""
        moments = 1 if self.config.optim.name == "muon" else 2
        return WIDE * self.parameters / self.shards, WIDE * moments * self.parameters / self.shards

    def gradients(self, blocks: float) -> float:
        """Bytes when backward has done so many blocks of the last stage, or all if there was a micro-batch before."""
        if self.micro_batches > 1:
            return WIDE * self.parameters  # replicas talk after the last
        return WIDE * blocks * self.block / self.shards

    def gathered(self) -> float:
        """Bytes of weights, beyond the shards, that replicas have gathered."""
        if self.shards == 1:
            return 0.0
        return WIDE * (self.parameters if self.layout.shard == "zero2" else self.rest + 2 * self.block)

    def loss(self) -> Memory:
        """The last micro-batch meets the vocabulary."""
        weights, moments = self.states()
        positions, width = self.positions, self.narrow
        if self.bert:
            positions = round(positions * self.config.data.mask_fraction)
        columns = self.words // self.hidden
        rows = min(positions, pieces.height(self.device, columns))
        piece = rows * columns * (WIDE + (2 * width if width < WIDE else WIDE))
        several = rows < positions
        weight = self.words * (WIDE + (width if width < WIDE else 0) + WIDE * several)
        head = 2 * WIDE * positions * self.hidden + WIDE * self.mine
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
        waits = self.last and (self.first or self.micro_batches == 1)  # the head's gradient, for the embedding's
        held = self.words * WIDE * waits
        return Memory(
            weights + self.gathered(),
            self.gradients(1) + held,
            moments,
            self.activations,
            self.inside() + self.received(),
        )

    def end(self) -> Memory:
        """All gradients are there, those of the words twice, or thrice, until they are one: in the backward of the
        first block, and when a pipeline's two copies are added."""
        weights, moments = self.states()
        words, left = self.words * WIDE, max(0.0, self.activations - self.stage)
        moving = max(words * (self.first + self.last) + left, 2 * words * (self.first != self.last))
        moving += WIDE * self.mine + self.received()
        return Memory(weights + self.gathered(), self.gradients(self.blocks), moments, left, moving - left)
