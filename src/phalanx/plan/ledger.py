"""What a step does, written down as it happens: memory, matrix products, collectives.

A dispatch mode sees every operation that reaches a kernel, in backward too, the tensors being real or fake. Memory
is that of storages, from the operation that makes one until the last tensor lets go of it; its kind is known only
afterwards, by when it came and went.
"""

import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

KINDS = ("parameters", "gradients", "optimizer", "activations", "temporary")
_aten = torch.ops.aten
_KINDS_OF_TALK = {
    "allreduce_": "all-reduce",
    "_allgather_base_": "all-gather",
    "_reduce_scatter_base_": "reduce-scatter",
    "send": "send",
}


class Talk(NamedTuple):
    """A kind of collective along an axis, and the bytes of what it is given or, of a gather, gives."""

    kind: str
    axis: str
    bytes: int


class Life(NamedTuple):
    """A storage: its bytes, and in which operation of which phase it came and went (None: it never did)."""

    bytes: int
    born: int
    phase: int
    backward: bool


class Ledger(TorchDispatchMode):
    """Writes down what happens while it is entered. `axes` names the axis of each process group."""

    def __init__(self, axes: Mapping[str, str]) -> None:
        super().__init__()
        self.axes = axes
        self.talks: Counter[Talk] = Counter()
        self.flops = 0
        self.now = 0  # operations so far
        self.phase, self.backward = 0, False  # a phase is a stretch of forward or of backward
        self.lives: dict[int, Life] = {}  # by number of storage
        self.deaths: dict[int, tuple[int, int]] = {}  # operation and phase
        self.kinds: dict[int, str] = {}
        self.numbers: weakref.WeakKeyDictionary[torch.UntypedStorage, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.now += 1
        backward = torch._C._current_graph_task_id() != -1
        if backward != self.backward:
            self.phase, self.backward = self.phase + 1, backward
        out = func(*args, **kwargs)
        if func.namespace == "c10d":
            self._talk(func, args)
        self.flops += _flops(func, args, kwargs, out)
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                self._meet(tensor)
        return out

    def label(self, kind: str, tensors: Iterable[Tensor]) -> None:
        """Say of what kind the memory of tensors is."""
        for tensor in tensors:
            self.kinds[self._meet(tensor)] = kind

    def timeline(self) -> list[dict[str, int]]:
        """Bytes by kind after every operation."""
        changes: dict[int, Counter[str]] = {}
        for number, life in self.lives.items():
            kind = self.kinds.get(number) or self._kind(number, life)
            changes.setdefault(life.born, Counter())[kind] += life.bytes
            if number in self.deaths:
                changes.setdefault(self.deaths[number][0], Counter())[kind] -= life.bytes
        held, line = dict.fromkeys(KINDS, 0), []
        for time in range(self.now + 1):
            for kind, change in changes.get(time, {}).items():
                held[kind] += change
            line.append(dict(held))
        return line

    def resized(self, tensor: Tensor) -> None:
        """The memory of a tensor was given back or taken again: a new life begins."""
        storage = tensor.untyped_storage()
        if (number := self.numbers.pop(storage, None)) is not None:
            self.deaths[number] = (self.now, self.phase)
        self._meet(tensor)

    def _meet(self, tensor: Tensor) -> int:
        storage = tensor.untyped_storage()
        number = self.numbers.get(storage)
        if number is None:
            number = self.numbers[storage] = len(self.lives)
            self.lives[number] = Life(storage.nbytes(), self.now, self.phase, self.backward)
            weakref.finalize(storage, self._left, number)
        return number

    def _left(self, number: int) -> None:
        self.deaths.setdefault(number, (self.now, self.phase))

    def _kind(self, number: int, life: Life) -> str:
        """What forward made and did not use up is an activation; the rest was there for a while."""
        outlived = number in self.deaths and self.deaths[number][1] != life.phase
        return "activations" if outlived and not life.backward else "temporary"

    def _talk(self, func: Any, args: Any) -> None:
        kind = _KINDS_OF_TALK.get(func._schema.name.removeprefix("c10d::"))
        if kind is None:
            return
        group = next(g for g in map(_group, args) if g is not None)
        tensors = [t for t in tree_iter(args[:2]) if isinstance(t, Tensor)]
        size = max(t.nbytes for t in tensors)
        self.talks[Talk(kind, self.axes.get(group.group_name, "?"), size)] += 1


def _group(argument: Any) -> dist.ProcessGroup | None:
    try:
        return dist.ProcessGroup.unbox(argument)  # type: ignore[attr-defined,no-any-return]
    except (RuntimeError, TypeError):
        return None


def _flops(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    packet = func._overloadpacket
    if packet in flop_registry:
        return int(flop_registry[packet](*args, **kwargs, out_val=out))
    if packet is _aten._scaled_dot_product_flash_attention_for_cpu:
        return int(sdpa_flop_count(*(a.shape for a in args[:3])))
    if packet is _aten._scaled_dot_product_flash_attention_for_cpu_backward:
        return int(sdpa_backward_flop_count(*(a.shape for a in args[:4])))
    return 0
