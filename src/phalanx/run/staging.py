"""Copies of a state in this machine's memory, from which a save is written while training goes on.

The copying too happens beside training: the state stays as it is until the next step reaches its optimizer, and forward
and backward take longer than a copy. Buffers are kept from save to save.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Staging:
    """Buffers for the tensors of a state. `ready` is called where a save begins, all else in the thread that writes,
    which has a current GPU of its own: not this process's.
    """

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}

    def ready(self, tensors: Mapping[str, Tensor]) -> torch.cuda.Event | None:
        """Return the event after which a GPU has the state that is to be copied; None where it is on none."""
        gpu = _gpu(tensors)
        return torch.cuda.current_stream(gpu).record_event() if gpu else None

    def prepare(self, tensors: Mapping[str, Tensor]) -> None:
        """Make the buffers, and touch every page of them: finding the memory takes several times as long as a copy."""
        with _on(_gpu(tensors)):
            self.buffers = {path: self._buffer(path, tensor) for path, tensor in tensors.items()}
        for path, buffer in self.buffers.items():
            if not tensors[path].is_cuda:
                _bytes(buffer)[:] = 0

    def copy(self, tensors: Mapping[str, Tensor], ready: torch.cuda.Event | None) -> dict[str, Tensor]:
        """Fill the buffers from `tensors`, once a GPU is past `ready`. Return them by path."""
        with _on(gpu := _gpu(tensors)):
            self.buffers = {path: self._buffer(path, tensor) for path, tensor in tensors.items()}
            if ready:
                # A stream of its own, so that the copy runs beside training's work.
                stream = torch.cuda.Stream(gpu)  # type: ignore[no-untyped-call]
                stream.wait_event(ready)
                with torch.cuda.stream(stream):
                    for path, tensor in tensors.items():
                        self.buffers[path].copy_(tensor, non_blocking=True)
                stream.synchronize()
                return self.buffers
        for path, tensor in tensors.items():
            _copy(tensor, self.buffers[path])
        return self.buffers

    def _buffer(self, path: str, tensor: Tensor) -> Tensor:
        known = self.buffers.get(path)
        if known is not None and known.shape == tensor.shape and known.dtype == tensor.dtype:
            return known
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)


def _copy(tensor: Tensor, buffer: Tensor) -> None:
    """Copy by this thread alone: torch's own copy would start as many more threads as training has already."""
    if tensor.is_contiguous():
        np.copyto(_bytes(buffer), _bytes(tensor))
    else:
        buffer.copy_(tensor)


def _bytes(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().flatten().view(torch.uint8).numpy()


def _gpu(tensors: Mapping[str, Tensor]) -> torch.device | None:
    return next((tensor.device for tensor in tensors.values() if tensor.is_cuda), None)


def _on(gpu: torch.device | None) -> AbstractContextManager[Any]:
    return torch.cuda.device(gpu) if gpu else nullcontext()
