"""One transformer block, pre-LN or post-LN, and activation recompute around it."""

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from phalanx.nn.attention import Attention, Context
from phalanx.nn.dropout import Dropout
from phalanx.nn.linear import Linear
from phalanx.nn.norm import Norm


class FeedForward(nn.Module):
    """down(gelu(up(x)))"""

    def __init__(self, hidden: int, width: int, gelu: str, stds: tuple[float, float]) -> None:
        super().__init__()
        self.approximate = "tanh" if gelu == "tanh" else "none"
        self.up = Linear(hidden, width, ("embed", "mlp"), stds[0])
        self.down = Linear(width, hidden, ("mlp", "embed"), stds[1])

    def forward(self, x: Tensor) -> Tensor:
        """x [..., hidden] -> [..., hidden]"""
        y: Tensor = self.down(F.gelu(self.up(x), approximate=self.approximate))
        return y


class Block(nn.Module):
    """Attention and feed-forward, each with a norm, dropout and the residual sum.

    `recompute` (none, block, attention) says which activations backward computes again; with stateless dropout that
    needs no saved generator state.
    """

    def __init__(self, attention: Attention, feed_forward: FeedForward, norms: tuple[Norm, Norm],
                 dropouts: tuple[Dropout, Dropout], norm_first: bool) -> None:  # fmt: skip
        super().__init__()
        self.norm_first, self.recompute = norm_first, "none"
        self.norm1, self.attention, self.dropout1 = norms[0], attention, dropouts[0]
        self.norm2, self.feed_forward, self.dropout2 = norms[1], feed_forward, dropouts[1]

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x [batch, seq, hidden] -> [batch, seq, hidden]"""
        if self.recompute == "block" and self.training:
            y: Tensor = checkpoint(self._forward, x, context, use_reentrant=False, preserve_rng_state=False)
        else:
            y = self._forward(x, context)
        return y

    def _forward(self, x: Tensor, context: Context) -> Tensor:
        if self.norm_first:
            x = x + self.dropout1(self._attend(self.norm1(x), context), context.index, context.key)
            x = x + self.dropout2(self.feed_forward(self.norm2(x)), context.index, context.key)
        else:
            x = self.norm1(x + self.dropout1(self._attend(x, context), context.index, context.key))
            x = self.norm2(x + self.dropout2(self.feed_forward(x), context.index, context.key))
        return x

    def _attend(self, x: Tensor, context: Context) -> Tensor:
        if self.recompute == "attention" and self.training:
            y: Tensor = checkpoint(self.attention, x, context, use_reentrant=False, preserve_rng_state=False)
        else:
            y = self.attention(x, context)
        return y
