"""Rotary position embeddings (arXiv 2104.09864): queries and keys turn by angles that grow with their positions, so
that a score depends on how far apart they are.
"""

import torch
from torch import Tensor, nn

from phalanx.spec.rope import Rope

Turn = tuple[Tensor, Tensor]  # cosines and sines, fp32 [batch, 1, seq, width / 2]


class Rotary(nn.Module):
    """The angles of a model's positions. Its frequencies are a buffer, so that no step copies them to a device."""

    frequencies: Tensor

    def __init__(self, rope: Rope) -> None:
        super().__init__()
        self.rope = rope
        self.register_buffer("frequencies", torch.empty(rope.width // 2), persistent=False)
        self.reset()

    def reset(self) -> None:
        """Write the frequencies into their buffer (again, after it was materialised empty)."""
        self.frequencies.copy_(torch.tensor(self.rope.frequencies()))

    def forward(self, positions: Tensor) -> Turn:
        """Return the cosines and sines of the angles at `positions` int64 [batch, seq].

        They are made of whole positions in fp32: half precision does not tell apart the positions of a long text.
        """
        angles, magnitude = positions[:, None, :, None].float() * self.frequencies, self.rope.magnitude
        cos, sin = angles.cos(), angles.sin()
        return (cos, sin) if magnitude == 1 else (cos * magnitude, sin * magnitude)


def rotated(x: Tensor, by: Turn) -> Tensor:
    """Return x [batch, heads, seq, d] with its first `width` numbers turned, number i with number i + width / 2."""
    cos, sin = by
    width = 2 * cos.shape[-1]
    first, second = x[..., :width].float().chunk(2, -1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)
    return turned if width == x.shape[-1] else torch.cat([turned, x[..., width:]], -1)
