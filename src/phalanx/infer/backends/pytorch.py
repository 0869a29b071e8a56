"""torch: on a CPU packed products, and rows one after another so that nothing is filled up; on a GPU rectangles of few
lengths, each captured as a CUDA graph (which has not run on one yet).
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from phalanx.data.source import Array
from phalanx.infer.backends import Program, Wanted
from phalanx.infer.graphs import BertGraph
from phalanx.infer.rows import Apart, InRectangles, OneAfterAnother, Rectangle
from phalanx.precision import gemm, packed

STEP = 32  # tokens to which a GPU's lengths are rounded up: so many graphs are captured


def lacking() -> str:
    """It is always here."""
    return ""


def precisions() -> tuple[str, ...]:
    """On this machine."""
    if torch.cuda.is_available():
        return "fp32", "bf16", "fp16"
    return tuple(p for p in packed.PRECISIONS if p != "bf16" or gemm.native_bf16(torch.device("cpu")))


def build(wanted: Wanted) -> Program:
    """The model itself in another precision; its weights are shared with the one it was loaded as."""
    model: Any = wanted.loaded.shared()
    device = next(model.parameters()).device
    if device.type == "cpu":
        packed.fill(model, wanted.precision)
        return OneAfterAnother(model, Apart(model), wanted.per_token, wanted.hidden)
    gemm.fill(model, wanted.precision, device)
    graph = BertGraph(replace(wanted.loaded, model=model), wanted.hidden).to(device)
    return InRectangles(Captured(graph, device), wanted.pad, wanted.loaded.context, wanted.per_token, STEP)


class Captured:
    """A CUDA graph for each shape, replayed on the inputs of the call."""

    def __init__(self, graph: Any, device: torch.device) -> None:
        self.graph, self.device = graph, device
        self.graphs: dict[tuple[int, ...], tuple[Any, list[Tensor], Tensor]] = {}

    def __call__(self, inputs: Rectangle) -> Array:
        """float32."""
        shape = inputs[0].shape
        if shape not in self.graphs:
            self.graphs[shape] = self._capture(inputs)
        graph, places, answer = self.graphs[shape]
        tokens, segment, mask = inputs
        for place, array in zip(places, (tokens, mask, segment), strict=True):
            place.copy_(torch.from_numpy(array))
        graph.replay()
        found: Array = answer.float().cpu().numpy()
        return found

    @torch.inference_mode()
    def _capture(self, inputs: Rectangle) -> tuple[Any, list[Tensor], Tensor]:
        tokens, segment, mask = inputs
        places = [torch.from_numpy(array).to(self.device) for array in (tokens, mask, segment)]
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.graph(*places)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            answer = _one(self.graph(*places))
        return graph, places, answer


def _one(outputs: tuple[Tensor, ...]) -> Tensor:
    """A span's two outputs lie together, as the head gave them."""
    return outputs[0] if len(outputs) == 1 else torch.stack(outputs, -1)


def joined(outputs: list[Array]) -> Array:
    """The same for arrays."""
    return outputs[0] if len(outputs) == 1 else np.stack(outputs, -1)
