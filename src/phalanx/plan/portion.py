"""What a rank of a layout holds of a model: its stages, its part of their parameters, its part of a micro-batch."""

from functools import cached_property

from phalanx.config import Config
from phalanx.models.family import spec_of
from phalanx.parallel import division

Shape = tuple[int, int]  # rows and width of a parameter

NARROW = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 2}  # bytes of a number that a product gives


class Portion:
    """Sizes of what one rank holds, in elements. `pp` and `tp` are its coordinates on those axes."""

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
        spread = division.spread(spec_of(self.model), self.final + 1)
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
        """Elements of this rank's part of the word embedding."""
        return self.model.padded_vocab // self.layout.tp * self.hidden

    @property
    def block_shapes(self) -> list[Shape]:
        """Shapes of a block's parameters: this rank's part of the matrices and of two biases; the rest is whole."""
        hidden, tp = self.hidden, self.layout.tp
        ffn, norm = (self.model.ffn or 4 * hidden) // tp, [(hidden, 1)] * 2
        attention = [(3 * hidden // tp, hidden), (3 * hidden // tp, 1), (hidden, hidden // tp), (hidden, 1)]
        return [*norm, *attention, *norm, (ffn, hidden), (ffn, 1), (hidden, ffn), (hidden, 1)]

    @property
    def tables(self) -> list[Shape]:
        """Shapes of the position and segment embeddings, and of the norm after them in a post-LN model."""
        norm = [(self.hidden, 1)] * 2 * (not self.model.norm_first)
        return [(rows, self.hidden) for rows in (self.model.positions, self.model.segments) if rows] + norm

    @property
    def heads(self) -> list[Shape]:
        """Shapes of the parameters after the blocks. GPT has a norm alone, since its head is the word embedding."""
        hidden, rows = self.hidden, self.words // self.hidden
        norm, square = [(hidden, 1)] * 2, [(hidden, hidden), (hidden, 1)]
        final = norm * self.model.norm_first
        if not self.bert:
            return final
        bias = max(0, min(rows, self.model.vocab - rows * self.tp_rank))
        return [*final, *square, *norm, (bias, 1), *square, (2, hidden), (2, 1)]

    @property
    def rest_shapes(self) -> list[Shape]:
        """Shapes of the parameters in no block. A pipeline's last stage has its own copy of the word embedding."""
        words = [(self.words // self.hidden, self.hidden)] * (self.first or self.last)
        return [*words, *self.tables * self.first, *self.heads * self.last]

    @property
    def shapes(self) -> list[Shape]:
        """Shapes of all parameters of this rank, in the model's order."""
        words = [(self.words // self.hidden, self.hidden)]
        shapes: list[Shape] = []
        for stage, blocks in zip(self.stages, self.spread, strict=True):
            shapes += words * (stage == 0 or (stage == self.final and not self.first))
            shapes += self.tables * (stage == 0) + self.block_shapes * blocks + self.heads * (stage == self.final)
        return shapes

    @cached_property
    def block(self) -> int:
        """Elements of a block's parameters, padded so that shards are equally long."""
        return self.padded(self.block_shapes)

    @cached_property
    def rest(self) -> int:
        """Elements of the parameters in no block, padded so that shards are equally long."""
        return self.padded(self.rest_shapes)

    def padded(self, shapes: list[Shape]) -> int:
        """Elements of parameters of these shapes, with as many rows in every shard."""
        return sum(-(-rows // self.shards) * self.shards * width for rows, width in shapes)

    @cached_property
    def parameters(self) -> int:
        """Elements of all parameters of this rank, before they are sharded over replicas."""
        return self.blocks * self.block + self.rest
