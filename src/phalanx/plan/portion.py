"""What a rank of a layout holds of a model: its stages, its part of their parameters, its part of a micro-batch."""

from functools import cached_property

from phalanx.config import Config
from phalanx.parallel import division

Shape = tuple[int, int]  # rows and width of a parameter

NARROW = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 2}  # bytes of a number that a product gives


class Portion:
    """`pp` and `tp` are the rank's places on those axes. Sizes are numbers of elements."""

    def __init__(self, config: Config, pp: int = 0, tp: int = 0) -> None:
        self.config, self.layout, self.model = config, config.layout, config.model
        self.tp_rank, self.bert, self.hidden = tp, config.task == "mlm", config.model.hidden
        self.narrow = NARROW[config.precision.dtype]
        self.sequence = self.layout.tp > 1 and self.layout.sequence_parallel
        self.positions = self.layout.micro_batch * config.data.sequence // self.layout.cp  # of a micro-batch
        self.micro_batches = config.train.batch // (self.layout.dp * self.layout.micro_batch)
        self.shards = (self.layout.shard_ways or self.layout.dp * self.layout.cp) if self.sharded else 1
        self.stages = division.numbers(self.layout, pp)
        self.final = division.stages_of(self.layout) - 1
        spread = division.spread(self.model, self.final + 1)
        self.spread = [spread[stage] for stage in self.stages]
        self.blocks = sum(self.spread)
        self.first, self.last = 0 in self.stages, self.final in self.stages

    @property
    def sharded(self) -> bool:
        """Whether parameters are split over replicas."""
        return self.layout.shard != "none"

    @cached_property
    def boundaries(self) -> int:
        """How many of its stages' sides are to another rank's stage."""
        beside = [stage + side for stage in self.stages for side in (-1, 1)]
        return sum(0 <= stage <= self.final and stage not in self.stages for stage in beside)

    @cached_property
    def words(self) -> int:
        """Of the word embedding."""
        return self.model.padded_vocab // self.layout.tp * self.hidden

    @property
    def block_shapes(self) -> list[Shape]:
        """Of a block's parameters: parts of the matrices and of two biases, whole norms and two biases."""
        hidden, tp = self.hidden, self.layout.tp
        ffn, norm = (self.model.ffn or 4 * hidden) // tp, [(hidden, 1)] * 2
        attention = [(3 * hidden // tp, hidden), (3 * hidden // tp, 1), (hidden, hidden // tp), (hidden, 1)]
        return [*norm, *attention, *norm, (ffn, hidden), (ffn, 1), (hidden, ffn), (hidden, 1)]

    @property
    def tables(self) -> list[Shape]:
        """Of position and segment embeddings, with the norm of a post-LN model."""
        norm = [(self.hidden, 1)] * 2 * (not self.model.norm_first)
        return [(rows, self.hidden) for rows in (self.model.positions, self.model.segments) if rows] + norm

    @property
    def heads(self) -> list[Shape]:
        """Of what follows the blocks. GPT's head is the word embedding."""
        hidden, rows = self.hidden, self.words // self.hidden
        norm, square = [(hidden, 1)] * 2, [(hidden, hidden), (hidden, 1)]
        final = norm * self.model.norm_first
        if not self.bert:
            return final
        bias = max(0, min(rows, self.model.vocab - rows * self.tp_rank))
        return [*final, *square, *norm, (bias, 1), *square, (2, hidden), (2, 1)]

    @property
    def rest_shapes(self) -> list[Shape]:
        """Of all that is in no block. The last stage of a pipeline has its own copy of the words."""
        words = [(self.words // self.hidden, self.hidden)] * (self.first or self.last)
        return [*words, *self.tables * self.first, *self.heads * self.last]

    @property
    def shapes(self) -> list[Shape]:
        """Of all parameters, in the order of the model."""
        words = [(self.words // self.hidden, self.hidden)]
        shapes: list[Shape] = []
        for stage, blocks in zip(self.stages, self.spread, strict=True):
            shapes += words * (stage == 0 or (stage == self.final and not self.first))
            shapes += self.tables * (stage == 0) + self.block_shapes * blocks + self.heads * (stage == self.final)
        return shapes

    @cached_property
    def block(self) -> int:
        """Of a block's parameters, with what makes shards equally long."""
        return self.padded(self.block_shapes)

    @cached_property
    def rest(self) -> int:
        """Of all that is in no block, with what makes shards equally long."""
        return self.padded(self.rest_shapes)

    def padded(self, shapes: list[Shape]) -> int:
        """Elements, where every shard has as many rows."""
        return sum(-(-rows // self.shards) * self.shards * width for rows, width in shapes)

    @cached_property
    def parameters(self) -> int:
        """Of all, before replicas share them."""
        return self.blocks * self.block + self.rest
