"""What one training step is: the model's shape, its layout over the processes, and how the program does it.

The arithmetic of a step is that of Narayanan et al. (arXiv 2104.04473, section 5.1 and appendix): a product of an
[m, k] with a [k, n] matrix counts 2mkn; backward is twice forward; recompute is not counted as the model's work.
"""

from dataclasses import dataclass
from typing import Literal

from phalanx.config import Config
from phalanx.models.family import spec_of
from phalanx.parallel import division

Attention = Literal["fused", "softmax", "plain"]
Pointwise = Literal["fused", "split"]


@dataclass(frozen=True)
class Work:
    """One step. Lengths in tokens, sizes in elements; `blocks` counts the blocks of each stage, in order."""

    family: str
    layers: int
    hidden: int
    heads: int
    ffn: int
    vocab: int  # padded
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
    optimizer: str = "adamw"
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
    def of(cls, config: Config) -> "Work":
        """What Phalanx does for a resolved configuration."""
        model, layout = config.model, config.layout
        plain = model.attention_dropout > 0
        return cls(
            family=model.family,
            layers=model.layers,
            hidden=model.hidden,
            heads=model.heads,
            ffn=model.ffn or 4 * model.hidden,
            vocab=model.padded_vocab,
            sequence=config.data.sequence,
            batch=config.train.batch,
            micro_batch=layout.micro_batch or max(1, config.train.batch // max(1, layout.dp)),
            tp=layout.tp,
            sequence_parallel=layout.sequence_parallel and layout.tp > 1,
            cp=layout.cp,
            pp=layout.pp,
            schedule=layout.schedule,
            chunks=2 if layout.schedule == "zbv" else layout.chunks,
            dp=max(1, layout.dp),
            shard=layout.shard,
            shard_ways=layout.shard_ways,
            recompute=layout.recompute,
            precision="bf16" if config.precision.dtype == "auto" else config.precision.dtype,
            optimizer=config.optim.name,
            blocks=division.spread(spec_of(model), division.stages_of(layout)),
            attention="plain" if plain else "fused",
            pointwise="split" if config.train.compile == "off" else "fused",
            labelled=config.data.mask_fraction if config.task == "mlm" else 1.0,
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

    @property
    def spread(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        if self.blocks:
            return self.blocks
        least, more = divmod(self.layers, self.stages)
        return tuple(least + (stage < more) for stage in range(self.stages))

    @property
    def block_parameters(self) -> int:
        """Parameters of a whole block: its matrices, biases and norms."""
        h, f = self.hidden, self.ffn
        return 4 * h * h + 2 * h * f + 9 * h + f

    @property
    def parameters(self) -> int:
        """Parameters of the whole model, with as many position embeddings as the sequence has tokens."""
        return self.layers * self.block_parameters + (self.vocab + self.sequence + 2) * self.hidden

    def flops(self, recompute: str = "none") -> float:
        """FLOPs of a step of all replicas: the model's own, or the hardware's with what is recomputed.

        With ffn = 4 × hidden it is 72 B s l h² (1 + s/6h + V/12lh), with recompute "block" 96 B s l h² (1 + s/6h +
        V/16lh), both of arXiv 2104.04473.
        """
        tokens = self.batch * self.sequence
        dense = 2 * tokens * self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.ffn)
        scores = 4 * tokens * self.layers * self.sequence * self.hidden
        head = 2 * tokens * self.labelled * self.hidden * self.vocab
        again = {"none": 0.0, "attention": scores, "block": dense + scores}[recompute]
        return 3 * (dense + scores + head) + again
