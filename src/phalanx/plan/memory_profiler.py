"""Memory and floating-point operations of what runs, written down as it happens.

A dispatch mode sees every operation that reaches a kernel, in backward too, be the tensors real or fake. Memory is that
of storages, from the operation that makes one until the last tensor lets go of it. Of what kind it is, somebody says
(weights, gradients, moments), or it is seen afterwards: an activation outlives the forward pass that made it.
"""

import math
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.fsdp._fully_shard import _fsdp_param
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, register_flop_formula, sdpa_backward_flop_count, sdpa_flop_count

from phalanx.precision.onednn import OPERATOR

KINDS = ("parameters", "gradients", "optimizer", "activations", "temporary")
_aten = torch.ops.aten
_FLASH = _aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACKWARD = _aten._scaled_dot_product_flash_attention_for_cpu_backward


class _Life(NamedTuple):
    """A storage: its bytes, the operation that made it, and in which stretch of forward or backward that was."""

    bytes: int
    born: int
    stretch: int
    backward: bool


class MemoryProfiler(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down what happens while it is entered."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.now = 0  # operations so far
        self.stretch, self.backward = 0, False
        self.lives: list[_Life] = []
        self.deaths: dict[int, tuple[int, int]] = {}  # operation and stretch, by number of life
        self.kinds: dict[int, str] = {}
        self.numbers: weakref.WeakKeyDictionary[torch.UntypedStorage, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.now += 1
        backward = torch._C._current_graph_task_id() != -1
        if backward != self.backward:
            self.stretch, self.backward = self.stretch + 1, backward
        out = func(*args, **kwargs)
        self.flops += flops_of(func, args, kwargs, out)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._meet(leaf)
        return out

    def label(self, kind: str, tensors: Iterable[Tensor | None]) -> None:
        """Say of what kind the memory of tensors is."""
        for tensor in tensors:
            if tensor is not None:
                self.kinds[self._meet(tensor)] = kind

    def timeline(self) -> NDArray[np.int64]:
        """Return the bytes after every operation: [operations, kinds]."""
        change = np.zeros((self.now + 1, len(KINDS)), dtype=np.int64)
        for number, life in enumerate(self.lives):
            kind = KINDS.index(self.kinds.get(number) or self._kind(number, life))
            change[life.born, kind] += life.bytes
            if number in self.deaths:
                change[self.deaths[number][0], kind] -= life.bytes
        return change.cumsum(0)

    @contextmanager
    def resizing(self) -> Iterator[None]:
        """Note when `fully_shard` takes and gives back gathered weights' memory, which it does behind all dispatch."""
        before = _fsdp_param.alloc_storage, _fsdp_param.free_storage

        def alloc(tensor: Tensor) -> None:
            before[0](tensor)
            forget(tensor)
            self.label("parameters", [tensor])

        def free(tensor: Tensor) -> None:
            forget(tensor)
            before[1](tensor)

        def forget(tensor: Tensor) -> None:
            if (number := self.numbers.pop(tensor.untyped_storage(), None)) is not None:
                self._left(number)

        _fsdp_param.alloc_storage, _fsdp_param.free_storage = alloc, free
        try:
            yield
        finally:
            _fsdp_param.alloc_storage, _fsdp_param.free_storage = before

    def _meet(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        number = self.numbers.get(storage)
        if number is None:
            number = self.numbers[storage] = len(self.lives)
            self.lives.append(_Life(storage.nbytes(), self.now, self.stretch, self.backward))
            weakref.finalize(storage, self._left, number)
        return number

    def _left(self, number: int) -> None:
        self.deaths.setdefault(number, (self.now, self.stretch))

    def _kind(self, number: int, life: _Life) -> str:
        outlived = number in self.deaths and self.deaths[number][1] != life.stretch
        return "activations" if outlived and not life.backward else "temporary"


def flops_of(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Return the FLOPs of a torch operation: 2mkn for each matrix product, attention's too; 0 where there is none."""
    packet = func._overloadpacket
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=out))
    if packet is _FLASH:
        return int(sdpa_flop_count(*(a.shape for a in args[:3])))  # type: ignore[no-untyped-call]
    if packet is _FLASH_BACKWARD:
        return int(sdpa_backward_flop_count(*(a.shape for a in args[:4])))  # type: ignore[no-untyped-call]
    return 0


@register_flop_formula(OPERATOR)
def _linear_flops(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(x) * weight[0]
