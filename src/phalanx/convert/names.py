"""Between this package's layout of weights and Hugging Face's.

Here one head's query, key and value rows lie together (a slice is whole heads); elsewhere all queries come first, then
all keys, then all values.
"""

import torch
from torch import Tensor

from phalanx.config import ModelConfig


def join_heads(stacked: Tensor, heads: int) -> Tensor:
    """[q; k; v] of a fused projection, [3 × hidden, ...], to head-major order."""
    return stacked.view(3, heads, -1, *stacked.shape[1:]).transpose(0, 1).reshape(stacked.shape)


def split_heads(joined: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """The query, key and value parts, each [hidden, ...], of a head-major projection."""
    q, k, v = joined.view(heads, 3, -1, *joined.shape[1:]).transpose(0, 1).reshape(3, -1, *joined.shape[1:])
    return q, k, v


def pad_rows(embedding: Tensor, config: ModelConfig) -> Tensor:
    """The embedding [vocab, hidden] with zero rows up to the padded vocabulary."""
    missing = config.padded_vocab - embedding.shape[0]
    return torch.cat([embedding, embedding.new_zeros(missing, embedding.shape[1])]) if missing else embedding
