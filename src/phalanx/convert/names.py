"""Between this package's layout of weights and that of other programs."""

import torch
from torch import Tensor

from phalanx.config import ModelConfig


def pad_rows(embedding: Tensor, config: ModelConfig) -> Tensor:
    """The embedding [vocab, hidden] with zero rows up to the padded vocabulary."""
    missing = config.padded_vocab - embedding.shape[0]
    return torch.cat([embedding, embedding.new_zeros(missing, embedding.shape[1])]) if missing else embedding
