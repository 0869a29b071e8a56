"""An encoder as a program of packed batches."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from phalanx.data.source import Array
from phalanx.nn.batch import Batch
from phalanx.nn.packed import PackedBatch


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
        read = rows.means(hidden) if model.answer.mean else hidden[0, first]
        return model.answer(read[:, None], pooled)  # type: ignore[no-any-return]
