"""One transformer block, pre-LN or post-LN, and activation recompute around it."""

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from phalanx.nn import activations
from phalanx.nn.attention import Attention, Context
from phalanx.nn.dropout import Dropout
from phalanx.nn.linear import Linear
from phalanx.nn.norm import Norm
from phalanx.spec import model


class FeedForward(nn.Module):
    """A feed-forward layer: down(act(up(x))), or gated: down(act(gate(x)) * up(x)), gate and up being one matrix,
    [gate; up].
    """

    def __init__(self, part: model.MLP) -> None:
        super().__init__()
        self.activation, self.gated = activations.of(part.activation), part.gated
        self.up, self.down = (Linear(matrix) for _, matrix in part.matrices())

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., hidden] of x [..., hidden]."""
        gate, up = self.up(x).chunk(2, -1) if self.gated else (self.up(x), None)
        inner = self.activation(gate)
        y: Tensor = self.down(inner if up is None else inner * up)
        return y


class Block(nn.Module):
    """Attention and feed-forward, each with a norm, dropout and the residual sum.

    `recompute` (none, block, attention) says which activations backward computes again; with stateless dropout that
    needs no saved generator state.
    """

    def __init__(self, part: model.Block, number: int) -> None:
        """`number` is the block's place in the whole model, which its dropouts are told apart by."""
        super().__init__()
        self.norm_first, self.recompute, site = part.norm_first, "none", 3 * number
        self.norm1, self.attention = Norm(part.norm1), Attention(part.attention, site + 1)
        self.norm2, self.feed_forward = Norm(part.norm2), FeedForward(part.feed_forward)
        self.dropout1, self.dropout2 = Dropout(part.drop, site + 2), Dropout(part.drop, site + 3)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Return [batch, seq, hidden] of x [batch, seq, hidden]."""
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
