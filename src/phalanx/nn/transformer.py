"""The stack that GPT and BERT share: embeddings, blocks, final norm."""

import math

from torch import Tensor, nn

from phalanx.config import ModelConfig
from phalanx.nn import slots
from phalanx.nn.attention import Attention, Context
from phalanx.nn.batch import Batch
from phalanx.nn.block import Block, FeedForward
from phalanx.nn.dropout import Dropout
from phalanx.nn.line import Line
from phalanx.nn.linear import Embedding, Slot
from phalanx.nn.norm import Norm


class Embeddings(nn.Module):
    """Token, position and, for BERT, segment embeddings; a norm after them in post-LN models; dropout.

    `rows` lets a layout that splits the residual stream take its positions."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden, std = config.hidden, config.init_std
        self.positions = config.positions
        self.token = Embedding(config.padded_vocab, hidden, ("vocab", "embed"), std)
        self.position = Embedding(config.positions, hidden, ("position", "embed"), std)
        self.segment = Embedding(config.segments, hidden, ("segment", "embed"), std) if config.segments else None
        self.norm = None if config.norm_first else Norm(hidden, config.norm_eps)
        self.dropout = Dropout(config.dropout, 0)
        self.rows: Slot = slots.same

    def forward(self, batch: Batch) -> Tensor:
        """-> float32 [batch, seq, hidden]"""
        place = self.position(self.rows(batch.index) % self.positions)
        if self.segment is not None and batch.segment is not None:
            place = place + self.segment(self.rows(batch.segment))
        x = self.token(batch.tokens) + place
        if self.norm is not None:
            x = self.norm(x)
        dropped: Tensor = self.dropout(x, batch.index, batch.key)
        return dropped


class Transformer(nn.Module):
    """Embeddings, blocks by number, final norm in pre-LN models: the residual stream.

    A layout that splits the stream puts it together again in `leave`; one that splits the sequence of every batch lets
    `everywhere` collect what the mask needs of the keys, or does without (`masked`) where attention makes its own. A
    pipeline's stage lacks what is not its own. Where all is here, padding may be left out (`lined`).
    """

    def __init__(self, config: ModelConfig, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.embeddings: Embeddings | None = Embeddings(config)
        self.blocks = nn.ModuleDict({str(layer): _block(config, layer) for layer in range(config.layers)})
        self.norm = Norm(config.hidden, config.norm_eps) if config.norm_first else None
        self.leave: Slot = slots.same
        self.everywhere: Slot = slots.same
        self.masked = True
        self.lined = False

    def forward(self, batch: Batch, x: Tensor | None = None) -> Tensor:
        """-> float32 [batch, seq, hidden]; `x` is the stream as the stage before left it"""
        line = Line(batch, self.causal) if self.lined else None
        batch, context = (batch, self.context(batch)) if line is None else (line.batch, line.context)
        if x is None:
            assert self.embeddings is not None
            x = self.embeddings(batch)
        for block in self.blocks.values():
            x = block(x, context)
        if self.norm is not None:
            x = self.norm(x)
        return self.leave(x) if line is None else line.back(x)

    @property
    def words(self) -> Tensor:
        """The weight of the word embedding, which a head multiplies by: [rows, hidden]"""
        assert self.embeddings is not None
        return self.embeddings.token.weight

    def context(self, batch: Batch) -> Context:
        """Who may attend to whom: within a document, and for a causal model to the past only."""
        documents = None if batch.document is None else self.everywhere(batch.document)
        mask = None
        if self.masked and batch.document is not None and documents is not None:
            mask = (batch.document[:, :, None] == documents[:, None, :])[:, None]
        if self.masked and self.causal and (documents is not None or self.everywhere is not slots.same):
            past = (batch.index[:, :, None] >= self.everywhere(batch.index)[:, None, :])[:, None]
            mask = past if mask is None else mask & past
        return Context(batch.index, batch.key, mask, self.causal, documents)


def _block(config: ModelConfig, layer: int) -> Block:
    hidden, std, site = config.hidden, config.init_std, 3 * layer
    stds = std, std / math.sqrt(2 * config.layers)
    attention = Attention(hidden, config.heads, config.attention_dropout, stds, site + 1)
    feed_forward = FeedForward(hidden, config.ffn or 4 * hidden, config.gelu, stds)
    norms = Norm(hidden, config.norm_eps), Norm(hidden, config.norm_eps)
    dropouts = Dropout(config.dropout, site + 2), Dropout(config.dropout, site + 3)
    return Block(attention, feed_forward, norms, dropouts, config.norm_first)
