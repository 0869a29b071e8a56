"""Every message between ranks, as torch's dispatcher sees it, real or not."""

from collections import Counter
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from phalanx.config import LayoutConfig
from phalanx.plan.communication import Message

_KINDS = {
    "allreduce_": "all-reduce",
    "_allgather_base_": "all-gather",
    "_reduce_scatter_base_": "reduce-scatter",
    "send": "send",
    "recv_": "receive",
}


class CommCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context in which `messages` counts what this rank of a layout takes part in."""

    def __init__(self, layout: LayoutConfig) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sizes = {"pp": layout.pp, "dp": layout.dp, "cp": layout.cp, "tp": layout.tp}  # the slowest first
        self.messages: Counter[Message] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.messages[self.heard(func, args, kwargs)] += 1
        return func(*args, **(kwargs or {}))

    def heard(self, func: Any, args: Any, kwargs: Any) -> Message:
        """Return the message that an operation of c10d sends: its kind, the axes of its group, and its bytes."""
        leaves = tree_leaves((args, kwargs))
        size = max((leaf.nbytes for leaf in leaves if isinstance(leaf, Tensor)), default=0)
        group = next(leaf for leaf in leaves if isinstance(leaf, torch.ScriptObject))
        name = func.name().removeprefix("c10d::")
        return Message(_KINDS.get(name, name), self._axes(dist.ProcessGroup.unbox(group)), size)

    def _axes(self, group: dist.ProcessGroup) -> str:
        places = np.unravel_index(dist.get_process_group_ranks(group), tuple(self.sizes.values()))
        return " ".join(axis for axis, place in zip(self.sizes, places, strict=True) if len(set(place)) > 1)
