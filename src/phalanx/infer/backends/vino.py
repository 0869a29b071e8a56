"""OpenVINO on the model's traced graph; int8 by NNCF's quantisation after training, measured on a bundled novel. Graphs
in int8 are kept between starts.
"""

import lzma
import warnings
from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from phalanx.data.labelled import Encoded
from phalanx.data.source import Array
from phalanx.infer import store
from phalanx.infer.backends import Program, Wanted, absent
from phalanx.infer.graphs import BertGraph
from phalanx.infer.rows import InRectangles, Rectangle, rectangle, together
from phalanx.precision.gemm import native_bf16

STEP = 16
SAMPLES, SAMPLE = 64, 128  # rows that ranges of activations are measured on, and their tokens


def lacking() -> str:
    """Why it cannot be had here."""
    return absent("openvino")


def precisions() -> tuple[str, ...]:
    """On this processor."""
    bf16 = native_bf16(torch.device("cpu"))
    return "fp32", *(("bf16",) if bf16 else ()), *(("int8",) if find_spec("nncf") else ())


def build(wanted: Wanted) -> Program:
    """A compiled model in this process."""
    import openvino as ov

    number = "bf16" if wanted.precision == "bf16" else "f32"
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": number}
    hints |= {"INFERENCE_NUM_THREADS": str(torch.get_num_threads())}
    model = _rounded(wanted) if wanted.precision == "int8" else _graph(wanted)
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
        return together([found[output] for output in self.compiled.outputs])


def _graph(wanted: Wanted) -> Any:
    import openvino as ov

    graph = BertGraph(wanted.loaded, wanted.hidden)
    examples, free = zip(*graph.inputs.values(), strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ov.convert_model(torch.export.export(graph, examples, dynamic_shapes=free, strict=False))


def _rounded(wanted: Wanted) -> Path:
    """The int8 graph's file, made where it is not kept."""
    facts = "openvino", wanted.precision, wanted.hidden, store.versions("openvino", "nncf")
    file = store.folder() / f"{store.key(wanted.loaded, *facts)}.xml"
    with store.alone(file):
        if not file.exists():
            _round(wanted, file)
    return file


def _round(wanted: Wanted, file: Path) -> None:
    import nncf
    import openvino as ov

    nncf.set_log_level("ERROR")
    samples = nncf.Dataset(list(_samples(wanted)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nncf.quantize(_graph(wanted), samples, model_type=nncf.ModelType.TRANSFORMER, subset_size=SAMPLES)
    beside = file.with_suffix(".partial.xml")
    ov.save_model(model, beside, compress_to_fp16=False)
    beside.with_suffix(".bin").rename(file.with_suffix(".bin"))
    beside.rename(file)


def _samples(wanted: Wanted) -> Iterator[list[Array]]:
    novel = files("phalanx") / "assets" / "novels" / "Doyle_Lost_1912.txt.xz"
    tokens = wanted.loaded.tokenizer.encode(lzma.decompress(novel.read_bytes()).decode()[: SAMPLES * SAMPLE * 8])
    length = min(SAMPLE, wanted.loaded.context)
    for start in range(0, min(len(tokens) - length, SAMPLES * length), length):
        row = Encoded(torch.tensor(tokens[start : start + length]).numpy(), length // 2)
        ids, segment, mask = rectangle([row], wanted.pad, 1, length)
        yield [ids, mask, segment]
