"""The stack of every model: embeddings, blocks, final norm."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from phalanx.nn import slots
from phalanx.nn.attention import Context, within
from phalanx.nn.batch import Batch
from phalanx.nn.block import Block
from phalanx.nn.dropout import Dropout
from phalanx.nn.linear import Embedding
from phalanx.nn.norm import Norm
from phalanx.nn.packed import pack
from phalanx.nn.rotary import Rotary, Turn
from phalanx.nn.slots import Slot
from phalanx.spec import model
from phalanx.spec.rope import Rope


class Embeddings(nn.Module):
    """Token, position and, for BERT, segment embeddings; a norm after them in post-LN models; dropout. `rows` lets a
    layout that splits the residual stream take its positions.
    """

    def __init__(self, part: model.Embeddings, positions: int) -> None:
        super().__init__()
        self.positions, self.offset, self.scale = positions, part.offset, part.scale
        self.token = Embedding(part.token)
        self.position = Embedding(part.position) if part.position else None
        self.segment = Embedding(part.segment) if part.segment else None
        self.norm = Norm(part.norm) if part.norm else None
        self.dropout = None if part.drop is None else Dropout(part.drop, 0)
        self.rows: Slot = slots.same

    def forward(self, batch: Batch) -> Tensor:
        """Return the residual stream before the first block, float32 [batch, seq, hidden]."""
        x = self.token(batch.tokens)
        x = x if self.scale == 1 else x * self.scale
        if self.position is not None:
            place = self.position(self.rows(batch.places(self.positions)) + self.offset)
            # a table of one row does not tell the texts of a pair apart
            segment = torch.zeros_like(batch.index) if self.segment and self.segment.count == 1 else batch.segment
            if self.segment is not None and segment is not None:
                place = place + self.segment(self.rows(segment))
            x = x + place

        x = x if self.norm is None else self.norm(x)
        return x if self.dropout is None else self.dropout(x, batch.index, batch.key)  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Embeddings, blocks by number, final norm in pre-LN models: the residual stream of a model or of a stage.

    A layout that splits the stream puts it together again in `leave`; one that splits the sequence of every batch lets
    `everywhere` collect what the mask needs of the keys, or does without (`masked`) where attention makes its own. A
    pipeline's stage lacks what is not its own. Where nothing is split, padding may be left out (`packs`).
    """

    def __init__(self, spec: model.Spec) -> None:
        super().__init__()
        self.causal, self.positions = spec.causal, spec.positions
        self.kinds = [*dict.fromkeys(block.attention.kind for block in spec.blocks)]
        ropes = [*dict.fromkeys(rope for rope, _ in self.kinds)]
        self.rotary = nn.ModuleList(Rotary(rope) for rope in ropes if rope)
        self.embeddings: Any = Embeddings(spec.embeddings, spec.positions) if spec.embeddings else None
        self.blocks = nn.ModuleDict({str(number): self._block(part, number) for number, part in spec.numbered()})
        self.norm = Norm(spec.norm) if spec.norm else None
        self.leave: Slot = slots.same
        self.everywhere: Slot = slots.same
        self.masked, self.packs = True, False

    def forward(self, batch: Batch, x: Tensor | None = None, context: Context | None = None) -> Tensor:
        """Return float32 [batch, seq, hidden]; `x` is the stream of the stage before, `context` a packed batch's."""
        packed = pack(batch) if self.packs and context is None else None
        if packed is not None:
            batch, context = packed.batch, packed.context(self.causal)
        contexts = self._contexts(batch, context or self.context(batch))

        x = self.embeddings(batch) if x is None else x
        for block in self.blocks.values():
            x = block(x, contexts[block.kind])  # type: ignore[index]

        x = x if self.norm is None else self.norm(x)
        return self.leave(x) if packed is None else packed.unpack(x)

    def _block(self, part: model.Block, number: int) -> Block:
        block = Block(part, number)
        block.kind = self.kinds.index(part.attention.kind)
        return block

    def _contexts(self, batch: Batch, context: Context) -> list[Context]:
        """Return the context of each kind of block: with the angles of its rotary positions, and its window."""
        if self.kinds == [(None, 0)]:
            return [context]
        place = batch.places(self.positions)
        turns: dict[Rope | None, Turn] = {rotary.rope: rotary(place) for rotary in self.rotary}  # type: ignore[misc]
        return [
            replace(context, turn=turns.get(rope), window=window, mask=self._in_window(window, batch, context))
            for rope, window in self.kinds
        ]

    def _in_window(self, window: int, batch: Batch, context: Context) -> Tensor | None:
        """Return the mask of a context within a window. Attention to packed sequences, to a cache or around a ring
        makes its own.
        """
        if not window or not self.masked or context.cu_seqlens is not None or context.cache is not None:
            return context.mask
        first = batch.index[:1]  # distances are the same in every row
        keys = self.everywhere(first)
        # a graph's length is free, and asking for it would bind the graph to what the example has
        if not torch.compiler.is_exporting() and window >= keys.shape[1]:
            return context.mask
        near = within(first, keys, window, self.causal)[:, None]
        return near if context.mask is None else near & context.mask

    def context(self, batch: Batch) -> Context:
        """Return who may attend to whom: within a document, and in a causal model to the past only."""
        documents = None if batch.document is None else self.everywhere(batch.document)

        mask = None
        if self.masked and batch.document is not None and documents is not None:
            mask = (batch.document[:, :, None] == documents[:, None, :])[:, None]
        if self.masked and self.causal and (documents is not None or self.everywhere is not slots.same):
            past = (batch.index[:, :, None] >= self.everywhere(batch.index)[:, None, :])[:, None]
            mask = past if mask is None else mask & past

        return Context(batch.index, batch.key, mask, self.causal, documents)
