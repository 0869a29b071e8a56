"""The most memory that a rank needs in a step, by kind, from the sizes alone.

What a block keeps for backward is counted as Korthikanti et al. (arXiv 2205.05198, section 4) do, for what this program
keeps: the residual stream in fp32, the operands of products in the precision of products, weights cast once a use, no
masks. Three moments compete: the loss, with all activations and a piece of the logits; the end of backward, with all
gradients; and the first block's backward of a rank that has no loss. Blocks are not compiled.
"""

from functools import cache, cached_property
from itertools import pairwise
from math import prod
from operator import mul
from typing import NamedTuple

from phalanx.config import Config
from phalanx.nn import logit_chunks
from phalanx.plan import pipeline
from phalanx.plan.rank import RankShard
from phalanx.spec.costs import WIDE, counted, saved
from phalanx.spec.model import MLP, Attention, Block
from phalanx.spec.partition import widened
from phalanx.spec.parts import Layer


class Memory(NamedTuple):
    """Bytes at the fullest moment of a step."""

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    temporary: float


def memory(config: Config, pp: int = 0, device: str = "cuda") -> Memory:
    """Return the peak memory of a step, in bytes by kind, on a rank at place `pp` of its pipeline. How many rows of
    logits there are at once depends on `device`.
    """
    rank = _Rank(config, pp, device)
    moments = [moment(kept) for kept in rank.fullest for moment in (rank.backward, rank.end)]
    return max([*moments, *(rank.loss(kept) for kept in rank.fullest if kept.loss)], key=sum)


class Held(NamedTuple):
    """What a rank of a pipeline holds at one time of a step: of each of its stages, passes that have been forward and
    not yet backward, and those of them that have been backward but for their weights; the share of its stages that have
    gradients of earlier micro-batches, and of those of them that wait for more; and whether the last stage has just
    been forward, and meets the loss.
    """

    forward: tuple[int, ...]
    moving: tuple[int, ...]
    summed: float
    unfinished: float
    loss: bool


@cache
def _held(schedule: str, pp: int, chunks: int, count: int, rank: int) -> set[Held]:
    """Return what a rank holds at the times of a step after which it holds less, and when gradients have come."""
    if pp == 1:
        return {Held((1,), (0,), float(count > 1), float(count > 1), True)}
    operations = pipeline.order(schedule, pp, chunks, count, rank)
    numbers = sorted({stage for _, stage, _ in operations})
    weights = "W" if schedule == "zbv" else "B"  # the pass that makes their gradients
    forward, moving, made, times = [0] * chunks, [0] * chunks, [0] * chunks, set[Held]()
    for (kind, stage, _), (following, _, _) in pairwise([*operations, ("", 0, 0)]):
        place = numbers.index(stage)
        forward[place] += (kind == "F") - (kind == weights)
        moving[place] += (kind == "B" != weights) - (kind == "W")
        made[place] += kind == weights
        if (kind == weights and made[place] == 1) or (kind != following and kind != weights):
            summed, finished = (chunks - made.count(0)) / chunks, made.count(count) / chunks
            loss = kind == "F" and stage == pp * chunks - 1
            times.add(Held(tuple(forward), tuple(moving), summed, summed - finished, loss))
    return times


class Kept(NamedTuple):
    """Bytes that micro-batches hold at a time, the share of the stages that have whole gradients of earlier ones, and
    whether it is that of the loss.
    """

    bytes: float
    summed: float
    loss: bool


@cache
def _split(layer: Layer) -> int:
    """Return the elements that a layer keeps of each token and that ranks share."""
    return sum(each.elements for each in layer.costs().saved if each.held == "split")


class _Rank(RankShard):
    def __init__(self, config: Config, pp: int, device: str) -> None:
        super().__init__(config, pp)
        # elements of the residual stream that this rank has
        self.local_stream = self.positions * self.spec.hidden // (self.layout.tp if self.sequence else 1)
        self.device = device
        self.casts = self.narrow if self.narrow < WIDE else 0  # bytes of a weight as products take it
        count = min(self.micro_batches, 4 * self.layout.pp)
        self.times = _held(self.layout.schedule, self.layout.pp, len(self.stages), count, pp)

    def kept(self, block: Block, recompute: str) -> float:
        """Return the bytes that a block keeps for backward of a micro-batch."""
        if recompute == "block":
            return WIDE * self.local_stream
        if recompute == "attention":
            return self.saved(block) - self.saved(block.attention) + WIDE * self.local_stream
        return self.saved(block) + self.beside(block.attention)

    def saved(self, part: Block | Layer) -> float:
        """Return the bytes that a block or a layer keeps of its own, and of its weights as products take them."""
        tokens, weights = saved(part, self.ranks, self.narrow)
        return self.positions * tokens + weights

    def between(self, mlp: MLP) -> float:
        """Return the bytes of gradients that are there at once between the products of a feed-forward layer: those of
        both sides of the activation, or of both factors of a gate where what these made has gone.
        """
        return self.narrow * self.positions * 2 * mlp.width / self.layout.tp

    def inner(self, layer: Layer) -> float:
        """Return the bytes of what a layer keeps between its first product and its last, which ranks share."""
        return self.narrow * self.positions * _split(layer) / self.layout.tp

    def beside(self, attention: Attention) -> float:
        """Return the bytes of what else attention keeps: scores that are stored, and other ranks' keys and values; or
        copies of all keys and values for each query of a group, in their place, where torch's kernels take no groups.
        """
        kept, keys = (WIDE + 1 + self.narrow) * self.pairs(attention), attention.costs().cached
        gathered = self.layout.cp if self.layout.context == "gather" else 1
        if attention.heads != attention.kv_heads and self.copies(attention):
            copied = gathered * keys * attention.heads // attention.kv_heads
            return kept + self.narrow * self.positions * (copied - keys) / self.layout.tp
        if self.layout.cp > 1:
            kept += gathered * self.narrow * self.positions * keys / self.layout.tp
        return kept

    def copies(self, attention: Attention) -> bool:
        """Return whether keys and values are copied for each query of a group: in fp32, and under a mask."""
        if self.layout.cp > 1 and self.layout.context == "ring":
            return False
        masked = self.layout.cp > 1 or 0 < attention.window < self.config.data.sequence
        return masked or self.narrow == WIDE

    def pairs(self, attention: Attention) -> float:
        """Return the pairs of queries and keys whose scores are stored: all where some are dropped."""
        pairs = self.positions * self.config.data.sequence * attention.heads / self.layout.tp
        return pairs if attention.drop else 0.0

    def inside(self, block: Block) -> float:
        """Return the bytes of a block's backward beyond what was kept: what is computed again, and moving gradients."""
        again = 0.0
        if self.layout.recompute == "block":
            again = self.kept(block, "none")
        elif self.layout.recompute == "attention":
            again = self.inner(block.attention) + self.beside(block.attention)
        stored = (3 * WIDE - self.narrow) * self.pairs(block.attention) + self.written_out(block.attention)
        scores = stored - self.saved(block.feed_forward)  # while the written-out formula goes forward, or backward
        return again + max(self.between(block.feed_forward), scores) + 2 * WIDE * self.local_stream

    def written_out(self, attention: Attention) -> float:
        """Return the bytes of a ring's backward where no kernel knows who may see whom, in fp32: weights of one rank's
        keys and their two gradients; those of queries and, a head each, of keys and values, of this turn and the last;
        keys and values on their way, with the gradients that they gather.
        """
        if self.layout.cp == 1 or self.layout.context != "ring" or attention.causal:
            return 0.0
        queries = self.positions * attention.heads * attention.width / self.layout.tp
        keys = self.positions * attention.kv_heads * attention.width / self.layout.tp
        pairs = self.positions * self.config.data.sequence / self.layout.cp * attention.heads / self.layout.tp
        return WIDE * (3 * pairs + 9 * queries + 4 * keys) + 2 * self.narrow * keys

    def moving(self, block: Block) -> float:
        """Return the bytes of the gradients that a block's weights wait for, where theirs are made later."""
        outputs = sum(matrix.outputs.size for _, matrix in block.matrices())
        return self.narrow * self.positions * outputs / self.layout.tp + 4 * WIDE * self.local_stream

    @cached_property
    def stage_bytes(self) -> list[float]:
        """Return the bytes that each stage keeps for backward of a micro-batch."""
        kept = self.by_stage({block: self.kept(block, self.layout.recompute) for block in self.computed})
        own = WIDE * self.local_stream
        return [size + own * (number == 0) for number, size in zip(self.numbers, kept, strict=True)]

    def by_stage(self, sizes: dict[Block, float]) -> list[float]:
        """Return the bytes of each stage's blocks, of the sizes of those that differ."""
        if len(sizes) == 1:
            return [len(stage.blocks) * size for stage in self.stages for size in sizes.values()]
        kinds = [counted(stage.blocks).items() for stage in self.stages]
        return [sum(count * sizes[widened(block, self.ranks.tp)] for block, count in each) for each in kinds]

    @cached_property
    def fullest(self) -> list[Kept]:
        """Return the most that micro-batches hold, and the most with gradients, at times of the loss and at others."""
        moving = {block: self.moving(block) for block in self.computed} if self.layout.schedule == "zbv" else {}
        waiting, whole = self.by_stage(moving) if moving else [], WIDE * self.parameters
        most, heaviest = dict[bool, tuple[float, float]](), dict[bool, tuple[float, float, float]]()
        for held in self.times:
            kept = sum(map(mul, held.forward, self.stage_bytes)) + sum(map(mul, held.moving, waiting))
            share = held.unfinished if self.sharded else held.summed  # finished gradients are shards then
            most[held.loss] = max(most.get(held.loss, (0.0, 0.0)), (kept, share))
            weight = (kept + whole * share, kept, share)
            heaviest[held.loss] = max(heaviest.get(held.loss, (0.0, 0.0, 0.0)), weight)

        fullest = {(kept, share, loss) for loss, (kept, share) in most.items()}
        fullest |= {(kept, share, loss) for loss, (_, kept, share) in heaviest.items()}
        return [Kept(*time) for time in fullest]

    def received(self) -> float:
        """Return the bytes of the places, one for each micro-batch of a step, where neighbours' messages arrive."""
        return WIDE * self.local_stream * self.boundaries * self.micro_batches

    def states(self) -> tuple[float, float]:
        """Return the bytes of weights and of what the optimizer keeps of them."""
        return WIDE * self.parameters / self.shards, self.state / self.shards

    @cached_property
    def largest(self) -> int:
        """Return the elements of its largest block."""
        return max(map(self.block, self.kinds))

    def gradients(self, kept: Kept, elements: int) -> float:
        """Return the bytes of gradients when so many elements are made, beside those of earlier micro-batches."""
        if self.micro_batches == 1:
            return WIDE * elements / self.shards
        copied = sum(self.rests) - self.rest if self.sharded else 0  # words that two stages of a rank have gathered
        summed = self.parameters if kept.summed == 1 else kept.summed * self.parameters
        return WIDE * (max(summed, elements) + copied)  # replicas talk after the last

    def gathered(self, blocks: float) -> float:
        """Return the bytes of weights that replicas have gathered beyond the shards: in ZeRO-3 so many elements of
        blocks.
        """
        if self.shards == 1:
            return 0.0
        if self.layout.pp == 1:
            blocks = 2 * self.largest  # the one at work and the next, which is asked for early
        return WIDE * (sum(self.rests) + (self.all_blocks if self.layout.shard == "zero2" else blocks))

    def kept_gathered(self, kept: Kept) -> float:
        """Return the elements of blocks that ZeRO-3 has left gathered: those of a pipeline's other stages on this rank,
        from their backward pass to their next forward pass.
        """
        return self.all_blocks * min(kept.summed, 1 - 1 / len(self.stages))

    def loss(self, kept: Kept) -> Memory:
        """Return the peak when the last micro-batch meets the head, and the vocabulary, if that has one, in pieces."""
        weights, moments = self.states()
        columns, width = self.decoder
        rows = min(self.labels, logit_chunks.rows(self.device, columns)) if columns else 0
        piece = rows * columns * (WIDE + (2 * self.casts or WIDE))
        weight = columns * width * (WIDE + self.casts + WIDE * (rows < self.labels))
        per = next(matrix.per for _, matrix in self.spec.heads[0].matrices())
        read = {"token": self.positions, "label": self.labels, "sequence": self.layout.micro_batch}[per]
        head = 2 * WIDE * read * self.spec.hidden + WIDE * self.local_stream
        return Memory(
            weights + self.gathered(self.kept_gathered(kept)),
            self.gradients(kept, 0),
            moments,
            kept.bytes + head + piece,
            weight + self.received(),
        )

    def backward(self, kept: Kept) -> Memory:
        """Return the peak when the last block of the fullest stage is in backward."""
        weights, moments = self.states()
        waits = self.last and (self.micro_batches == 1 or self.sharded or (self.first and self.spec.tied))
        head = WIDE * prod(self.decoder) * waits  # the head's gradient, for the embedding's
        return Memory(
            weights + self.gathered(min(self.kept_gathered(kept) + 2 * self.largest, self.all_blocks)),
            self.gradients(kept, self.largest if self.micro_batches == 1 else 0) + head,
            moments,
            kept.bytes,
            max(map(self.inside, self.computed)) + self.received(),
        )

    def end(self, kept: Kept) -> Memory:
        """Return the peak at the end of backward, when the tied embedding's gradient exists two or three times."""
        weights, moments = self.states()
        words, left = WIDE * self.words, max(0.0, kept.bytes - max(self.stage_bytes))
        twins = 2 * words * self.twins * (self.shards == 1)  # of shards that is less than what was gathered
        waits = self.last and (self.micro_batches == 1 or self.sharded or self.spec.tied)
        moving = max(words * self.first + WIDE * prod(self.decoder) * waits + left, twins)
        moving += WIDE * self.local_stream + self.received()
        made = self.all_blocks
        return Memory(weights + self.gathered(made), self.gradients(kept, made), moments, left, moving - left)

    @cached_property
    def all_blocks(self) -> int:
        """Return the elements of all its blocks."""
        return sum(count * self.block(block) for block, count in self.kinds.items())
