"""One transformer block, with norms before, behind or on its branches, and activation recompute around it."""

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from phalanx.nn import activations
from phalanx.nn.attention import Attention, Context
from phalanx.nn.dropout import Dropout
from phalanx.nn.linear import Linear
from phalanx.nn.norm import optional_norm
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

    Of the contexts of several kinds of blocks it takes number `kind`.

    `recompute` (none, block, attention) says which activations backward computes again; with stateless dropout that
    needs no saved generator state.
    """

    def __init__(self, part: model.Block, number: int) -> None:
        """`number` is the block's place in the whole model, which its dropouts are told apart by."""
        super().__init__()
        self.norm_first, self.recompute, self.kind, site = part.norm_first, "none", 0, 3 * number
        self.norm1, self.attention = optional_norm(part.norm1) or nn.Identity(), Attention(part.attention, site + 1)
        self.norm2, self.feed_forward = optional_norm(part.norm2) or nn.Identity(), FeedForward(part.feed_forward)
        self.branch1, self.branch2 = optional_norm(part.branch1), optional_norm(part.branch2)
        self.dropout1, self.dropout2 = Dropout(part.drop, site + 2), Dropout(part.drop, site + 3)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """Return [batch, seq, hidden] of x [batch, seq, hidden]."""
        if self.recompute == "block" and self.training:
            y: Tensor = checkpoint(self._forward, x, context, use_reentrant=False, preserve_rng_state=False)
        else:
            y = self._forward(x, context)
        return y

    def _forward(self, x: Tensor, context: Context) -> Tensor:
        attend = self._attend if self.recompute == "attention" else self.attention
        branch1, branch2 = self.branch1, self.branch2

        if self.norm_first:
            y = attend(self.norm1(x), context)
            x = x + self.dropout1(y if branch1 is None else branch1(y), context.index, context.key)
            y = self.feed_forward(self.norm2(x))
            x = x + self.dropout2(y if branch2 is None else branch2(y), context.index, context.key)
        else:
            x = self.norm1(x + self.dropout1(attend(x, context), context.index, context.key))
            x = self.norm2(x + self.dropout2(self.feed_forward(x), context.index, context.key))
        return x

    def _attend(self, x: Tensor, context: Context) -> Tensor:
        """Return what attention gives, of which backward computes the inside again."""
        if not self.training:
            return self.attention(x, context)  # type: ignore[no-any-return]
        y: Tensor = checkpoint(self.attention, x, context, use_reentrant=False, preserve_rng_state=False)
        return y
