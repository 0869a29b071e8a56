"""Every message between ranks, as torch's dispatcher sees it."""

from collections import Counter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

KINDS = {
    "allreduce_": "all-reduce",
    "_allgather_base_": "all-gather",
    "_reduce_scatter_base_": "reduce-scatter",
    "send": "send",
    "recv_": "receive",
}

Message = tuple[str, str, int]
"""Its kind, the axes along which its ranks differ (as "dp tp"), and the elements of the whole tensor."""


class Traffic(TorchDispatchMode):
    """A context in which `messages` counts what this rank of a grid takes part in."""

    def __init__(self, sizes: dict[str, int]) -> None:
        """`sizes`: the axes and their lengths, the first one the slowest."""
        super().__init__()
        self.sizes = sizes
        self.messages: Counter[Message] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            leaves = tree_leaves((args, kwargs))
            elements = max((leaf.numel() for leaf in leaves if isinstance(leaf, Tensor)), default=0)
            group = next(leaf for leaf in leaves if isinstance(leaf, torch.ScriptObject))
            name = func.name().removeprefix("c10d::")
            self.messages[KINDS.get(name, name), self._axes(dist.ProcessGroup.unbox(group)), elements] += 1
        return func(*args, **(kwargs or {}))

    def _axes(self, group: dist.ProcessGroup) -> str:
        places = torch.unravel_index(torch.tensor(dist.get_process_group_ranks(group)), tuple(self.sizes.values()))
        return " ".join(axis for axis, place in zip(self.sizes, places, strict=True) if len(place.unique()) > 1)
