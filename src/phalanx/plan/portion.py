"""What a rank of a layout holds of a model: its stages, its part of their parameters, its positions of a micro-batch."""

from phalanx.config import Config
from phalanx.nn.transformer import padded_vocab
from phalanx.parallel import stages

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
        self.stages = stages.numbers(self.layout, pp)
        self.final = stages.stages_of(self.layout) - 1
        spread = stages.spread(self.model, self.final + 1)
        self.blocks = sum(spread[stage] for stage in self.stages)
        self.first, self.last = 0 in self.stages, self.final in self.stages

    @property
    def sharded(self) -> bool:
        """Whether parameters are split over replicas."""
        return self.layout.shard != "none"

    @property
    def words(self) -> int:
        """Of the word embedding."""
        return padded_vocab(self.model) // self.layout.tp * self.hidden

    @property
    def block(self) -> int:
        """Of a block's parameters: a part of matrices and biases, whole norms and two biases."""
        return (12 * self.hidden**2 + 7 * self.hidden) // self.layout.tp + 6 * self.hidden

    @property
    def tables(self) -> int:
        """Of position and segment embeddings, with BERT's norm."""
        return (self.model.positions + (self.model.segments + 2) * self.bert) * self.hidden

    @property
    def rest(self) -> int:
        """Of all that is in no block. The last stage of a pipeline has its own copy of the words."""
        hidden, rows = self.hidden, self.words // self.hidden
        bias = max(0, min(rows, self.model.vocab - rows * self.tp_rank))
        bias += bias % 2 * self.sharded  # two shards are equally long
        heads = 2 * hidden**2 + 6 * hidden + 2 + bias if self.bert else 2 * hidden
        return (self.first or self.last) * self.words + self.first * self.tables + self.last * heads

    @property
    def parameters(self) -> int:
        """Of all, before replicas share them."""
        return self.blocks * self.block + self.rest
