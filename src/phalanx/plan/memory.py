"""The most memory that a rank needs in a step, by kind, from the sizes alone.

What a block keeps for backward is counted as Korthikanti et al. (arXiv 2205.05198, section 4) do, for what this program
keeps: the residual stream in fp32, the operands of products in the precision of products, weights cast once a use, no
masks. Three moments compete: the loss, with all activations and a piece of the logits; the end of backward, with all
gradients; and the first block's backward of a rank that has no loss. Blocks are not compiled.
"""

from typing import NamedTuple

from phalanx.config import Config
from phalanx.nn import loss
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
    """Of a rank at place `pp` of its pipeline. The device says in how large pieces the logits come."""
    rank = _Rank(config, pp, device)
    return max((rank.loss(), rank.backward(), rank.end()) if rank.last else (rank.backward(), rank.end()), key=sum)


class _Rank(Portion):
    def __init__(self, config: Config, pp: int, device: str) -> None:
        super().__init__(config, pp)
        self.stream = self.positions * self.hidden  # elements of a micro-batch, whole over tp
        self.mine = self.stream // (self.layout.tp if self.sequence else 1)
        self.pieces = loss.LIMITS[device]
        self.operations = self._operations(pp)

    def _operations(self, pp: int) -> list[pipeline.Operation]:
        """What the rank does in a step, or in its beginning."""
        layout = self.layout
        if layout.pp == 1:
            return [("F", 0, 0), ("B", 0, 0)]
        count = min(self.micro_batches, 4 * layout.pp)
        return pipeline.order(layout.schedule, layout.pp, len(self.stages), count, pp)

    def fullest(self, kept: float, moving: float) -> float:
        """The most bytes that micro-batches hold which have been forward: `kept` until backward, and where the weights'
        gradients are made later, `moving` as well until then."""
        apart = any(kind == "W" for kind, _, _ in self.operations)
        held = most = 0.0
        for kind, _, _ in self.operations:
            held += {"F": kept, "B": moving if apart else -kept, "W": -kept - moving}[kind]
            most = max(most, held)
        return most

    def kept(self) -> float:
        """Bytes that a block keeps for backward of a micro-batch."""
        width, recompute, tp = self.narrow, self.layout.recompute, self.layout.tp
        if recompute == "block":
            return WIDE * self.mine
        ffn = self.model.ffn or 4 * self.hidden
        casts = width if width < WIDE else 0  # weights as products take them
        kept = 2 * WIDE * self.mine  # what the norms begin with, or what the sub-layers do
        kept += width * self.stream + 2 * width * self.stream * ffn / self.hidden / tp  # into and out of up, into down
        kept += 2 * casts * self.hidden * ffn / tp
        if recompute == "attention":
            return kept + WIDE * self.mine
        kept += width * self.stream + casts * 4 * self.hidden**2 / tp
        return kept + self.attended()

    def attended(self) -> float:
        """Bytes of what attention keeps: queries, keys, values and what it gives."""
        layout, part = self.layout, self.narrow * self.stream / self.layout.tp
        kept = 4 * part
        if self.model.attention_dropout:
            pairs = self.positions * self.config.data.sequence * self.model.heads / layout.tp
            kept += (WIDE + 1 + self.narrow) * pairs
        if layout.cp > 1:
            kept += 2 * part * (layout.cp if layout.context == "gather" else 1)
        return kept

    def inside(self) -> float:
        """Bytes of a block's backward beyond what was kept: what is computed again, and gradients on their way."""
        ffn = self.model.ffn or 4 * self.hidden
        again = 0.0
        if self.layout.recompute == "block":
            again = self._replaced("none").kept()
        elif self.layout.recompute == "attention":
            again = self.attended()
        moving = 2 * self.narrow * self.stream * ffn / self.hidden / self.layout.tp + 2 * WIDE * self.mine
        return again + moving

    def _replaced(self, recompute: str) -> "_Rank":
        layout = self.layout.model_copy(update={"recompute": recompute})
        other = object.__new__(_Rank)
        other.__dict__ = {**self.__dict__, "layout": layout}
        return other

    def stage(self) -> float:
        """Bytes that a stage keeps for backward of a micro-batch, on average of the rank's."""
        return (self.blocks * self.kept() + WIDE * self.mine * self.first) / len(self.stages)

    def activations(self) -> float:
        """Bytes that all micro-batches keep, when most of it is there."""
        ffn = self.model.ffn or 4 * self.hidden
        moving = self.narrow * self.stream * (5 + ffn / self.hidden) / self.layout.tp + 4 * WIDE * self.mine
        return self.fullest(self.stage(), self.blocks / len(self.stages) * moving)

    def received(self) -> float:
        """Bytes of the places, one for each micro-batch of a step, where neighbours' messages arrive."""
        boundaries = sum((stage in self.stages) != (stage + 1 in self.stages) for stage in range(self.final))
        return WIDE * self.mine * boundaries * self.micro_batches

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
        limit, most = self.pieces
        rows = min(positions, most, max(1, limit // columns))
        piece = rows * columns * (WIDE + (2 * width if width < WIDE else WIDE))
        several = rows < positions
        weight = self.words * (WIDE + (width if width < WIDE else 0) + WIDE * several)
        head = 2 * WIDE * positions * self.hidden + WIDE * self.mine
        return Memory(
            weights + self.gathered(),
            self.gradients(0),
            moments,
            self.activations() + head + piece,
            weight + self.received(),
        )

    def backward(self) -> Memory:
        """The last block of the fullest stage is in backward."""
        weights, moments = self.states()
        held = self.words * WIDE * self.last  # the head's gradient waits for the embedding's
        return Memory(
            weights + self.gathered(),
            self.gradients(1) + held,
            moments,
            self.activations(),
            self.inside() + self.received(),
        )

    def end(self) -> Memory:
        """All gradients are there; those of the words twice, or thrice, until they are one."""
        weights, moments = self.states()
        words = self.words * WIDE * (self.first + self.last)
        moving = words + WIDE * self.mine + self.received()
        left = max(0.0, self.activations() - self.stage())
        return Memory(weights + self.gathered(), self.gradients(self.blocks), moments, left, moving)
