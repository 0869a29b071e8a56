"""An encoder as a program of packed batches."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phalanx.data.labelled import Encoded
from phalanx.data.source import Array
from phalanx.nn.batch import Batch
from phalanx.nn.packed import PackedBatch


def pack_rows(rows: Sequence[Encoded]) -> PackedBatch:
    """Put one row or more one after another, on the CPU."""
    lengths = [len(row.tokens) for row in rows]
    positions = [np.arange(length) for length in lengths]
    segments = [(places >= row.second).astype(np.int64) for places, row in zip(positions, rows, strict=True)]
    ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)

    given = [row.tokens for row in rows], positions, segments
    tokens, index, segment = (torch.from_numpy(np.concatenate(parts)) for parts in given)
    return PackedBatch.of(tokens, index, ends, max(lengths), segment)


class Encoder:
    """A program of packed batches: it gives the numbers of a model's head, or with `hidden` the residual stream under
    it. With `per_token` there is an answer for every token, else one for a sequence.
    """

    def __init__(self, model: Any, per_token: bool, hidden: bool) -> None:
        self.model, self.per_token, self.hidden = model, per_token, hidden
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def __call__(self, rows: PackedBatch) -> Array:
        """Return float32 [tokens, …], or [sequences, …]."""
        answers: Array = self.encode(replace(rows, batch=rows.batch.to(self.device))).cpu().numpy()
        return answers

    def encode(self, rows: PackedBatch) -> Tensor:
        """Return float32 [tokens, …], or [sequences, …], on the model's device."""
        batch, model = rows.batch, self.model
        hidden = model.transformer(batch, context=rows.context(model.transformer.causal))
        if self.hidden:
            return hidden[0].float()  # type: ignore[no-any-return]
        if self.per_token:
            return model.answer(hidden, batch)[0]  # type: ignore[no-any-return]

        first = rows.cu_seqlens[:-1].clamp(max=batch.tokens.shape[1] - 1)  # those of no tokens begin past the last one
        pooled = Batch(batch.tokens[0][first, None], batch.index[0][first, None], batch.key.expand(len(first)))
        return model.answer(hidden[0, first, None], pooled)  # type: ignore[no-any-return]
