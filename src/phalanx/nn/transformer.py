"""The stack that GPT and BERT share: embeddings, blocks, final norm."""

import math

from torch import Tensor, nn

from phalanx.config import ModelConfig
from phalanx.nn import slots
from phalanx.nn.attention import Attention, Context
from phalanx.nn.batch import Batch
from phalanx.nn.block import Block, FeedForward
from phalanx.nn.dropout import Dropout
from phalanx.nn.linear import Embedding, Slot
from phalanx.nn.norm import Norm


class Embeddings(nn.Module):
    """Token, position and, for BERT, segment embeddings; a norm after them in post-LN models; dropout."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, std = config.hidden, config.init_std
        self.positions = config.positions
        self.token = Embedding(padded_vocab(config), hidden, ("vocab", "embed"), std)
        self.position = Embedding(config.positions, hidden, ("position", "embed"), std)
        self.segment = Embedding(config.segments, hidden, ("segment", "embed"), std) if config.segments else None
        self.norm = None if config.norm_first else Norm(hidden, config.norm_eps)
        self.dropout = Dropout(config.dropout, 0)
        self.scatter: Slot = slots.same

    def forward(self, batch: Batch) -> Tensor:
        """-> float32 [batch, seq, hidden]"""
        place = self.position(batch.index % self.positions)
        if self.segment is not None and batch.segment is not None:
            place = place + self.segment(batch.segment)
        x = self.token(batch.tokens) + self.scatter(place)
        if self.norm is not None:
            x = self.norm(x)
        dropped: Tensor = self.dropout(x, batch.index, batch.key)
        return dropped


class Transformer(nn.Module):
    """Embeddings, blocks by number, final norm in pre-LN models."""

    def __init__(self, config: ModelConfig, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.embeddings = Embeddings(config)
        self.blocks = nn.ModuleDict({str(layer): _block(config, layer) for layer in range(config.layers)})
        self.norm = Norm(config.hidden, config.norm_eps) if config.norm_first else None

    def forward(self, batch: Batch) -> Tensor:
        """-> float32 [batch, seq, hidden]"""
        context = self.context(batch)
        x: Tensor = self.embeddings(batch)
        for block in self.blocks.values():
            x = block(x, context)
        if self.norm is not None:
            x = self.norm(x)
        return x

    def context(self, batch: Batch) -> Context:
        """Who may attend to whom: within a document, and for a causal model to the past only."""
        mask = None
        if batch.document is not None:
            mask = (batch.document[:, :, None] == batch.document[:, None, :])[:, None]  # [batch, 1, seq, seq]
            if self.causal:
                mask = mask & (batch.index[:, None, :, None] >= batch.index[:, None, None, :])
        return Context(batch.index, batch.key, batch.document, mask, self.causal)


def padded_vocab(config: ModelConfig) -> int:
    """Rows of the token embedding: the vocabulary rounded up, the same for every layout."""
    return math.ceil(config.vocab / config.pad_vocab_to) * config.pad_vocab_to


def _block(config: ModelConfig, layer: int) -> Block:
    hidden, std, site = config.hidden, config.init_std, 3 * layer
    stds = std, std / math.sqrt(2 * config.layers)
    attention = Attention(hidden, config.heads, config.attention_dropout, stds, site + 1)
    feed_forward = FeedForward(hidden, config.ffn or 4 * hidden, config.gelu, stds)
    norms = Norm(hidden, config.norm_eps), Norm(hidden, config.norm_eps)
    dropouts = Dropout(config.dropout, site + 2), Dropout(config.dropout, site + 3)
    return Block(attention, feed_forward, norms, dropouts, config.norm_first)
