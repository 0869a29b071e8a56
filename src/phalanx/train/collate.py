"""Samples to a batch: tensors, with the coordinates of their random numbers."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from phalanx.config import Config
from phalanx.data.source import Sample
from phalanx.nn import random
from phalanx.nn.batch import Batch
from phalanx.train.layouts import parts_of


def make_batch(
    samples: Sequence[Sample], positions: int, seed: int, step: int, first: int = 0, restart: bool = False
) -> Batch:
    """Samples as tensors, with the coordinates that make their random numbers: rows of the global batch from `first`.
    Where a document begins inside a sequence the positions that the model is told may `restart`.

    `document` is given only if some sample needs it, so that attention without a mask keeps its fast path.
    """
    rows, length = len(samples), len(samples[0].tokens)
    index = torch.arange(first, first + rows)[:, None] * positions + torch.arange(length)
    segment = related = document = value = None
    if samples[0].segment is not None:
        segment = _stack([s.segment for s in samples])
    if any(s.related >= 0 for s in samples):
        related = torch.tensor([s.related for s in samples])
    if any(s.document is not None for s in samples):
        whole = torch.zeros(length, dtype=torch.int32)
        document = torch.stack([whole if s.document is None else torch.from_numpy(s.document) for s in samples])
    if not all(math.isnan(s.value) for s in samples):
        value = torch.tensor([s.value for s in samples])
    key = torch.full((rows,), random.key(seed, step), dtype=torch.int32)
    tokens, labels = _stack([s.tokens for s in samples]), _stack([s.labels for s in samples])
    place = _restarted(document) if restart and document is not None else None
    return Batch(tokens, index, key, labels, segment, document, related, value, place)


def trimmed(batch: Batch, samples: Sequence[Sample], config: Config) -> Batch:
    """The batch without positions that only fill up all of its `samples`: one of few lengths, all of which the layout
    can split. A pipeline's stages expect one length, so there nothing is cut.
    """
    layout, length = config.layout, config.data.sequence
    if layout.pp > 1:
        return batch
    parts = parts_of(layout.tp, layout.cp, layout.sequence_parallel)
    step = math.ceil(max(16, length / 8) / parts) * parts
    keep = min(length, math.ceil(max(1, *(s.used for s in samples)) / step) * step)
    return batch if keep == length else batch.columns(torch.arange(keep))


def _restarted(document: Tensor) -> Tensor:
    """Return how far each token is from where its document begins in the sequence: int64 [rows, length]."""
    place = torch.arange(document.shape[1])
    begins = torch.ones_like(document, dtype=torch.bool)
    begins[:, 1:] = document[:, 1:] != document[:, :-1]
    return place - torch.where(begins, place, 0).cummax(1).values


def _stack(arrays: Sequence[object]) -> Tensor:
    return torch.stack([torch.as_tensor(array, dtype=torch.int64) for array in arrays])
