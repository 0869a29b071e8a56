"""What one training step is: the model, its layout over the processes, and how the program does it.

The arithmetic of a step is that of Narayanan et al. (arXiv 2104.04473, section 5.1 and appendix): a product of an
[m, k] with a [k, n] matrix counts 2mkn; backward is twice forward; recompute is not counted as the model's work.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from phalanx.config import Config
from phalanx.models.family import sketch_of, spec_of
from phalanx.optimizer import OptimConfig
from phalanx.parallel import placement
from phalanx.plan.rank import labelled_fraction
from phalanx.spec.costs import decoders, kinds, products, scores
from phalanx.spec.model import Spec
from phalanx.spec.partition import Ranks
from phalanx.train.optimizers import AdamW

Attention = Literal["fused", "softmax", "plain"]
Pointwise = Literal["fused", "split"]


@dataclass(frozen=True)
class Workload:
    """One step. Lengths in tokens, sizes in elements; `blocks` counts the blocks of each stage, in order."""

    spec: Spec
    sequence: int
    batch: int  # sequences of a step, over all replicas
    micro_batch: int = 1
    tp: int = 1
    sequence_parallel: bool = False
    cp: int = 1
    pp: int = 1
    schedule: str = "1f1b"
    chunks: int = 1
    dp: int = 1
    shard: str = "none"
    shard_ways: int = 0  # 0: all of dp × cp
    recompute: str = "none"
    precision: str = "bf16"
    optimizer: OptimConfig = field(default_factory=AdamW)
    blocks: tuple[int, ...] = ()  # empty: as even as can be
    attention: Attention = "fused"  # one kernel; a softmax kernel between two products; each operation a kernel
    pointwise: Pointwise = "fused"  # bias, dropout and residual sum, or bias and GELU, in one kernel, or each a kernel
    labelled: float = 1.0  # the share of positions that meet the vocabulary
    overlap: bool = True  # gradients are summed over replicas while backward goes on
    tp_overlap: bool = False  # products are cut so that tensor parallelism's messages go on under them
    scattered: bool = False  # a tensor-parallel rank sends its part of the stream to the next stage, which gathers it
    gradient_bytes: int = 4  # of an element as replicas sum it
    adds: bool = True  # a micro-batch's gradients are added to the sum by kernels of their own, not by the products
    stream_bytes: int = (
        2  # of an element of the residual stream; of weights, which are cast for use where they are wider
    )

    @classmethod
    def of(cls, config: Config) -> "Workload":
        """Return the workload of a step of Phalanx's trainer with a resolved configuration."""
        spec, layout = spec_of(config.model), config.layout
        return cls(
            spec=spec,
            sequence=config.data.sequence,
            batch=config.train.batch,
            micro_batch=layout.micro_batch,
            tp=layout.tp,
            sequence_parallel=layout.sequence_parallel and layout.tp > 1,
            cp=layout.cp,
            pp=layout.pp,
            schedule=layout.schedule,
            chunks=2 if layout.schedule == "zbv" else layout.chunks,
            dp=layout.dp,
            shard=layout.shard,
            shard_ways=layout.shard_ways,
            recompute=layout.recompute,
            precision=config.precision.dtype,
            optimizer=config.optim,
            blocks=placement.assign_layers(spec, placement.stage_count(layout)),
            attention="plain" if any(block.attention.drop for block in kinds(spec)) else "fused",
            pointwise="split" if config.train.compile == "off" else "fused",
            labelled=labelled_fraction(config),
            stream_bytes=4,
        )

    @property
    def gpus(self) -> int:
        return self.tp * self.cp * self.pp * self.dp

    @property
    def micro_batches(self) -> int:
        return max(1, self.batch // (self.dp * self.micro_batch))

    @property
    def stages(self) -> int:
        return self.pp * self.chunks

    @cached_property
    def spread(self) -> tuple[int, ...]:
        """Return the blocks of each stage."""
        if self.blocks:
            return self.blocks
        least, more = divmod(len(self.spec.blocks), self.stages)
        return tuple(least + (stage < more) for stage in range(self.stages))

    @property
    def ranks(self) -> Ranks:
        """Return over how many tensor-parallel ranks the model is divided."""
        return Ranks(self.tp, self.sequence_parallel)

    @property
    def parameters(self) -> int:
        """Return the parameters of the whole model, with the padding of its vocabulary and as many position embeddings
        as the sequence has tokens, without what its heads have of their own beside a vocabulary.
        """
        spec, table = self.spec, self.spec.embeddings
        assert table is not None
        rows = table.token.rows.stored + self.sequence * (table.position is not None)
        rows += sum(matrix.outputs.stored for matrix in decoders(spec) if not matrix.tied)
        norms = [parameter for norm in (table.norm, spec.norm) if norm for parameter in norm.parameters()]
        blocks = (count * each.elements for block, count in kinds(spec).items() for each in block.parameters())
        return sum(blocks) + rows * spec.hidden + sum(parameter.elements for parameter in norms)

    def flops(self, recompute: str = "none") -> float:
        """Return the FLOPs of a step of all replicas: the model's own, or the hardware's with what is recomputed.

        For GPT-2 with ffn = 4 × hidden it is 72 B s l h² (1 + s/6h + V/12lh), with recompute "block" 96 B s l h² (1 +
        s/6h + V/16lh), both of arXiv 2104.04473.
        """
        tokens, blocks = self.batch * self.sequence, kinds(self.spec).items()
        dense = sum(count * made.flops for block, count in blocks for made in products(block, tokens))
        within = tokens * scores(self.spec, self.sequence)
        head = sum(2 * tokens * self.labelled * each.inputs.size * each.outputs.stored for each in decoders(self.spec))
        again = {"none": 0.0, "attention": within, "block": dense + within}[recompute]
        return 3 * (dense + within + head) + again


def uncounted(config: Config) -> list[str]:
    """Return sentences on what of a configuration neither the closed forms nor a trace count."""
    said = []
    if config.data.stop_at_documents:
        said.append(
            "data.stop_at_documents=true is planned as attention over whole sequences: the time and memory that its "
            "mask takes are not counted"
        )
    if any(0 < block.attention.window < config.data.sequence for block in kinds(sketch_of(config.model))):
        said.append(
            "windows of attention are planned as attention over whole sequences, which their masks leave parts of "
            "out: the time and memory that a mask takes are not counted"
        )
    return said
