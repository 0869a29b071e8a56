"""Per-rank sizes: the stages, the parameters and the share of a micro-batch that a rank of a layout holds."""

from collections.abc import Iterable
from dataclasses import replace
from functools import cache, cached_property
from math import prod

from phalanx.config import Config
from phalanx.models.family import spec_of
from phalanx.optimizer import OptimConfig, state_bytes
from phalanx.parallel import placement
from phalanx.spec.costs import counted, decoders
from phalanx.spec.leaves import Parameter
from phalanx.spec.model import Block, Spec
from phalanx.spec.partition import Ranks, local, shape, stage, widened

NARROW = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 2}  # bytes of a number that a product gives


class RankShard:
    """The stages of one rank and its part of them, in elements. `pp` and `tp` are its coordinates on those axes."""

    def __init__(self, config: Config, pp: int = 0, tp: int = 0) -> None:
        self.config, self.layout, self.spec = config, config.layout, spec_of(config.model)
        self.narrow = NARROW[config.precision.dtype]
        self.sequence = self.layout.tp > 1 and self.layout.sequence_parallel
        self.ranks = Ranks(self.layout.tp, self.sequence, tp)
        self.positions = self.layout.micro_batch * config.data.sequence // self.layout.cp  # of a micro-batch
        self.labels = labels(config)
        self.rows = config.train.batch // self.layout.dp  # of a replica in a step; the last micro-batch may have fewer
        self.micro_batches = -(-self.rows // self.layout.micro_batch)
        self.sharded = self.layout.shard != "none"  # whether parameters are split over replicas
        self.shards = (self.layout.shard_ways or self.layout.dp * self.layout.cp) if self.sharded else 1

        self.numbers, self.final = placement.stage_numbers(self.layout, pp), placement.stage_count(self.layout) - 1
        spread = placement.assign_layers(self.spec, self.final + 1)
        self.stages = [stage(self.spec, number, spread) for number in self.numbers]
        self.first, self.last = 0 in self.numbers, self.final in self.numbers
        self.twins = self.spec.tied and self.first != self.last  # whether another rank has a copy of its words

    @cached_property
    def boundaries(self) -> int:
        """Return how many of its stages' sides are to another rank's stage."""
        beside = [number + side for number in self.numbers for side in (-1, 1)]
        return len([number for number in beside if 0 <= number <= self.final and number not in self.numbers])

    @cached_property
    def kinds(self) -> dict[Block, int]:
        """Return how many blocks of each kind this rank holds."""
        return counted([block for each in self.stages for block in each.blocks])

    @cached_property
    def computed(self) -> dict[Block, int]:
        """Return how many blocks of each kind it computes: `kinds` with the copies of key heads that ranks share."""
        return {widened(block, self.ranks.tp): count for block, count in self.kinds.items()}

    @property
    def blocks(self) -> int:
        """Return how many blocks it has."""
        return sum(self.kinds.values())

    @cached_property
    def words(self) -> int:
        """Return the elements of its part of the word embedding."""
        return _words(self.spec, self.ranks)

    @cached_property
    def decoder(self) -> tuple[int, int]:
        """Return rows, with padding, and width of its part of a head over the vocabulary; (0, 1) for none."""
        return _decoder(self.spec, self.ranks)

    @cached_property
    def held(self) -> list[Parameter]:
        """Return the parameters of this rank in the model's order; with the first and the last stage it has the tied
        table once.
        """
        return [*{parameter.name: parameter for each in self.stages for parameter in each.parameters()}.values()]

    def block(self, block: Block) -> int:
        """Return the elements of a block's parameters, padded so that shards are equally long."""
        return _padded(block, self.ranks, self.shards)

    @cached_property
    def rest(self) -> int:
        """Return the elements of the parameters in no block, padded so that shards are equally long."""
        return _rest(self.spec, self.first, self.last, self.ranks, self.shards)

    @cached_property
    def rests(self) -> list[int]:
        """Return the same by what is gathered together: where a pipeline ends on the rank on which it begins, first and
        last stage each have all that they need, and so the words twice.
        """
        if self.layout.pp > 1 and self.first and self.last:
            ends = (True, False), (False, True)
            return [_rest(self.spec, *end, self.ranks, self.shards) for end in ends]
        return [self.rest] if self.rest else []

    @cached_property
    def parameters(self) -> int:
        """Return the elements of all parameters of this rank, before they are sharded over replicas."""
        return sum(count * self.block(block) for block, count in self.kinds.items()) + self.rest

    @cached_property
    def state(self) -> int:
        """Return the bytes that the optimizer keeps of all parameters of this rank, before replicas share them."""
        optim, shards = self.config.optim, self.shards
        blocks = sum(count * _padded(block, self.ranks, shards, optim) for block, count in self.kinds.items())
        return blocks + _rest(self.spec, self.first, self.last, self.ranks, shards, optim)


def labels(config: Config, rows: int = 0) -> int:
    """Return how many positions of a micro-batch, or of so many `rows` of one, have a label: all, or those that a
    masked model is asked about, on average.
    """
    positions = (rows or config.layout.micro_batch) * config.data.sequence // config.layout.cp
    return round(labelled_fraction(config) * positions)


def labelled_fraction(config: Config) -> float:
    """Return the share of positions that have a label."""
    return config.data.mask_fraction if "mlm" in spec_of(config.model).losses else 1.0


@cache
def _words(spec: Spec, ranks: Ranks) -> int:
    assert spec.embeddings is not None
    return prod(shape(next(spec.embeddings.token.parameters()), ranks))


@cache
def _decoder(spec: Spec, ranks: Ranks) -> tuple[int, int]:
    matrix = next(decoders(spec), None)
    return (local(matrix.outputs, ranks, padding=True), matrix.inputs.size) if matrix else (0, 1)


@cache
def _padded(block: Block, ranks: Ranks, shards: int, optim: OptimConfig | None = None) -> int:
    """Return the elements of a block's parameters, or the bytes of their state."""
    return _elements(block.parameters(), ranks, shards, optim)


@cache
def _rest(spec: Spec, first: bool, last: bool, ranks: Ranks, shards: int, optim: OptimConfig | None = None) -> int:
    """Return the elements of the parameters in no block, of the first stage and of the last, whose words are the same;
    or the bytes of their state.
    """
    ends = [stage(replace(spec, blocks=()), number, (0, 0)) for number in [0] * first + [1] * last]
    held = {parameter.name: parameter for each in ends for parameter in each.parameters()}
    return _elements(held.values(), ranks, shards, optim)


def _elements(parameters: Iterable[Parameter], ranks: Ranks, shards: int, optim: OptimConfig | None) -> int:
    """Return the elements of a rank's part of parameters, all shards of equal length, or the bytes of their state."""
    count = 0
    for parameter in parameters:
        rows, *others = shape(parameter, ranks)
        count += -(-rows // shards) * shards * prod(others) * (state_bytes(optim, parameter) if optim else 1)
    return count
