"""OpenVINO on the model's traced graph."""

import warnings
from typing import Any

import torch

from phalanx.data.source import Array
from phalanx.infer.backends import Program, Wanted
from phalanx.infer.backends.native import joined
from phalanx.infer.graphs import BertGraph
from phalanx.infer.rows import InRectangles, Rectangle
from phalanx.precision.gemm import native_bf16

PACKAGE = "openvino"
STEP = 16


def precisions() -> tuple[str, ...]:
    """On this processor."""
    return ("fp32", "bf16") if native_bf16(torch.device("cpu")) else ("fp32",)


def build(wanted: Wanted) -> Program:
    """A compiled model in this process."""
    import openvino as ov

    graph = BertGraph(wanted.loaded, wanted.hidden)
    examples, free = zip(*graph.inputs.values(), strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = ov.convert_model(torch.export.export(graph, examples, dynamic_shapes=free, strict=False))
    number = {"fp32": "f32", "bf16": "bf16"}[wanted.precision]
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": number}
    hints |= {"INFERENCE_NUM_THREADS": str(torch.get_num_threads())}
    compiled = ov.Core().compile_model(model, "CPU", hints)
    return InRectangles(Compiled(compiled), wanted.pad, wanted.loaded.context, wanted.per_token, STEP)


class Compiled:
    """A compiled model as a program of rectangles."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled

    def __call__(self, inputs: Rectangle) -> Array:
        """float32"""
        tokens, segment, mask = inputs
        found = self.compiled([tokens, mask, segment])
        return joined([found[output] for output in self.compiled.outputs])
