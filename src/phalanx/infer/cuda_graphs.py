"""CUDA graphs: functions of one shape that are called again and again, one launch for all kernels of each."""

import shutil
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from phalanx.data.source import Array

Compute = Callable[[Tensor], Any]


class GraphedFunction:
    """A function `compute` of `count` whole numbers (int32), which are written into `numbers` before a call."""

    def __init__(self, compute: Compute, count: int, device: torch.device) -> None:
        self.compute, self.gpu = compute, device.type == "cuda"
        self.on_host = torch.zeros(count, dtype=torch.int32, pin_memory=self.gpu)
        self.numbers: Array = self.on_host.numpy()
        self.on_device = self.on_host.to(device)
        self.graph: Any = None

    @torch.inference_mode()
    def __call__(self) -> Any:
        """Return the function's result, on the device that computed it; it is good until the next call."""
        if not self.gpu:
            return self.compute(self.on_host)
        self.on_device.copy_(self.on_host, non_blocking=True)
        if self.graph is None:
            self._record()
        self.graph.replay()
        return self.answer

    def _record(self) -> None:
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # compiles, and lets libraries take what they need
                self.compute(self.on_device)
        torch.cuda.current_stream().wait_stream(stream)

        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=_pool()):
            self.answer = self.compute(self.on_device)
        self.graph = graph


class GraphCache(OrderedDict[Any, Any]):
    """Graphs by shape; the longest unused is dropped past MOST."""

    MOST = 64

    def of(self, shape: Any, make: Callable[[], Any]) -> Any:
        """Return the graph of a shape, made where it is not kept."""
        if shape not in self:
            self[shape] = make()
        self.move_to_end(shape)
        if len(self) > self.MOST:
            self.popitem(last=False)
        return self[shape]


@cache
def _pool() -> Any:
    """Return the memory that all graphs use: one runs at a time, and what it gives is taken before the next."""
    return torch.cuda.graph_pool_handle()


def has_compiler() -> bool:
    """Return whether torch's compiler finds the C compiler that it needs to make code for a GPU."""
    return any(map(shutil.which, ("cc", "gcc", "clang")))


def compile_blocks(model: Any, device: torch.device) -> None:
    """Fuse what lies between a model's products, of any shape, where there are a GPU and a compiler."""
    if device.type == "cuda" and has_compiler():
        torch._dynamo.config.recompile_limit = 256  # models of all sizes share the code of a block
        for block in model.transformer.blocks.values():
            block.compile(dynamic=True)


def round_up(count: int, least: int = 1) -> int:
    """Round up to a number of which there are few: a multiple of `least`, an eighth too large at most past eight of
    them.
    """
    step = max(least, 1 << max(0, count.bit_length() - 4))
    return -(-count // step) * step


def power_of_two(count: int) -> int:
    """Round up to a power of two."""
    return 1 << (count - 1).bit_length()
