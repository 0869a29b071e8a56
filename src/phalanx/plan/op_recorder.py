"""The operations of a step in their order, each with what a roofline needs to tell how long it takes."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from phalanx.plan.comm_counter import CommCounter
from phalanx.plan.communication import Message
from phalanx.plan.memory_profiler import MemoryProfiler, flops_of

_aten = torch.ops.aten
_NAMED = {_aten.mm: (0, 1), _aten.addmm: (1, 2), _aten.bmm: (0, 1), _aten.baddbmm: (1, 2)}  # where the operands are


class Operation(NamedTuple):
    """An operation: `at` is its place on the memory's timeline; `shape` is (batch, m, n, k) of a product, else zeros;
    bytes are those read and written.
    """

    at: int

    name: str
    backward: bool
    flops: int
    bytes: int
    shape: tuple[int, int, int, int]
    message: Message | None


class OpRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which `operations` grows."""

    def __init__(self, comm: CommCounter, memory: MemoryProfiler) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.comm, self.memory = comm, memory
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.is_view or func.namespace == "prim":  # which move nothing; fake tensors ask for their device so
            return out
        message = self.comm.heard(func, args, kwargs) if func.namespace == "c10d" else None
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        moved = sum({id(t): t.numel() * t.element_size() for t in tensors}.values())
        backward = torch._C._current_graph_task_id() != -1
        flops = flops_of(func, args, kwargs, out)
        name = func.name().removeprefix("aten::").removesuffix(".default")
        self.operations.append(Operation(self.memory.now, name, backward, flops, moved, _shape(func, args), message))
        return out


def _shape(func: Any, args: Any) -> tuple[int, int, int, int]:
    if (places := _NAMED.get(func._overloadpacket)) is None:
        return 0, 0, 0, 0
    a, b = (args[place].shape for place in places)
    return (a[0] if len(a) == 3 else 1), int(a[-2]), int(b[-1]), int(a[-1])
