"""The floating-point operations of a rank in a step: 2mkn for a product of an [m, k] with a [k, n] matrix.

What is computed again counts here, as hardware does it; a model's own FLOPs, for MFU, are in `Work.flops`. Attention in
one kernel computes its scores once more in backward (Dao et al., arXiv 2205.14135).
"""

from math import prod

from phalanx import optimizer
from phalanx.config import Config
from phalanx.parallel import windows
from phalanx.parallel.windows import Window
from phalanx.plan.rank import RankShard
from phalanx.spec.costs import products
from phalanx.spec.model import Block
from phalanx.spec.parts import Part


def flops(config: Config, pp: int = 0) -> float:
    """Return the FLOPs of a step on a rank at place `pp` of its pipeline, recomputed and the optimizer's included."""
    rank = RankShard(config, pp)
    blocks = sum(count * _block(rank, block) for block, count in rank.computed.items())
    heads = sum(3 * _multiplied(rank, head) for stage in rank.stages for head in stage.heads)
    update = sum(2 * prod(shape) for parameter in rank.held for shape in optimizer.products(config.optim, parameter))
    return rank.rows * (blocks + heads) / rank.layout.micro_batch + update


def _multiplied(rank: RankShard, part: Part) -> float:
    """Return the FLOPs of the products of a part in a micro-batch's forward pass."""
    made = products(part, rank.positions, rank.labels, rank.layout.micro_batch, rank.ranks)
    return sum(product.flops for product in made)


def _block(rank: RankShard, block: Block) -> float:
    """Return the FLOPs of a block's forward and backward of a micro-batch, and of what is computed again."""
    layout, attention = rank.layout, block.attention
    scores = 2 * rank.positions * attention.costs().scored * rank.config.data.sequence / layout.tp
    if layout.context == "ring" and layout.cp > 1 and attention.window:
        part = rank.config.data.sequence // layout.cp
        met = windows.pairs(layout.cp, part, Window(attention.window, attention.causal))
        scores *= met / (part * rank.config.data.sequence)
    elif layout.context == "ring" and attention.causal:
        scores *= (layout.cp + 1) / (2 * layout.cp)  # of other ranks' keys each query block sees half
    whole = _multiplied(rank, block) + scores
    kernel = 0 if attention.drop else scores / 2

    again = {"none": 0.0, "block": whole}
    if layout.recompute == "attention":  # whose last product keeps only what it begins with
        *before, _ = products(attention, rank.positions, ranks=rank.ranks)
        again["attention"] = sum(product.flops for product in before) + scores
    return 3 * whole + kernel + again[layout.recompute]
