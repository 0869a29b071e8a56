"""The floating-point operations of a rank in a step: 2mkn for a product of an [m, k] with a [k, n] matrix.

What is computed again counts here, as hardware does it; a model's own FLOPs, for MFU, are in `Work.flops`. Attention in
one kernel computes its scores once more in backward (Dao et al., arXiv 2205.14135).
"""

from phalanx.config import Config
from phalanx.plan.portion import Portion


def flops(config: Config, pp: int = 0) -> float:
    """FLOPs of one step on a rank at place `pp` of its pipeline, recomputation included."""
    rank = Portion(config, pp)
    return rank.micro_batches * (rank.blocks * _block(rank) + rank.last * _head(rank))


def _block(rank: Portion) -> float:
    """Forward and backward of a micro-batch, and what is done again."""
    model, layout, hidden = rank.model, rank.layout, rank.hidden
    ffn = model.ffn or 4 * hidden
    scores = 4 * rank.positions * rank.config.data.sequence * hidden / layout.tp
    if layout.context == "ring" and not rank.bert:
        scores *= (layout.cp + 1) / (2 * layout.cp)  # of other ranks' keys each query block sees half
    attention = 8 * rank.positions * hidden**2 / layout.tp + scores
    whole = attention + 4 * rank.positions * hidden * ffn / layout.tp
    kernel = 0 if model.attention_dropout else scores / 2
    way_out = 2 * rank.positions * hidden**2 / layout.tp  # attention's last product keeps only what it begins with
    again = {"none": 0.0, "attention": attention - way_out, "block": whole}[layout.recompute]
    return 3 * whole + kernel + again


def _head(rank: Portion) -> float:
    """The vocabulary at the positions that have a label, BERT's transform before it, and its question of pairs."""
    columns = min(rank.words // rank.hidden, rank.model.vocab)
    if not rank.bert:
        return 6.0 * rank.positions * rank.hidden * columns
    labelled = round(rank.positions * rank.config.data.mask_fraction)
    pairs = rank.layout.micro_batch * (rank.hidden + 2)
    return 6.0 * rank.hidden * (labelled * (columns + rank.hidden) + pairs)
