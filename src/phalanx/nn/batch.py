"""The input of a model: tokens with their global coordinates."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.utils._pytree import register_dataclass


@dataclass(frozen=True)
class Batch:
    """B sequences of S tokens. `index` and `key` make every random number a function of global coordinates."""

    tokens: Tensor  # int64 [B, S]
    index: Tensor  # int64 [B, S]: row in the global batch × model.positions + position in the sequence
    key: Tensor  # int32 [B]: hash of (seed, step), the same in every row
    labels: Tensor | None = None  # int64 [B, S], -1 where nothing is predicted
    segment: Tensor | None = None  # int64 [B, S]
    document: Tensor | None = None  # int32 [B, S]: attention stays within equal numbers; padding is -1
    related: Tensor | None = None  # int64 [B]: the sequence's label (NSP, SOP, or a class); -1: none
    value: Tensor | None = None  # float32 [B]: the number to predict, NaN where there is none
    place: Tensor | None = (
        None  # int64 [B, S]: the position that the model is told, where it is not that in the sequence
    )

    def places(self, positions: int) -> Tensor:
        """Return the positions that a model of so many is told: int64 [B, S]."""
        return self.index % positions if self.place is None else self.place

    def rows(self, start: int, stop: int) -> "Batch":
        """Return sequences `start` to `stop` of this batch, coordinates kept."""
        return self._map(lambda t: t[start:stop])

    def columns(self, positions: Tensor) -> "Batch":
        """Return the given positions of every sequence, coordinates kept."""
        return self._map(lambda t: t[:, positions] if t.ndim == 2 else t)

    def unasked(self) -> "Batch":
        """Return the batch without questions about whole sequences."""
        related = None if self.related is None else torch.full_like(self.related, -1)
        value = None if self.value is None else torch.full_like(self.value, torch.nan)
        return replace(self, related=related, value=value)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`."""
        return self._map(lambda t: t.to(device, non_blocking=True))

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        present = {f.name: t for f in fields(self) if (t := getattr(self, f.name)) is not None}
        return Batch(**{name: change(tensor) for name, tensor in present.items()})


register_dataclass(Batch)
