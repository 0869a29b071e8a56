"""onnxruntime on the model's ONNX graph; int8 by its dynamic quantisation. Graphs are kept between starts."""

from pathlib import Path
from typing import Any

import torch

from phalanx import processor
from phalanx.data.source import Array
from phalanx.infer import store
from phalanx.infer.backends import Program, Wanted, absent
from phalanx.infer.graphs import BertGraph, onnx_program, quieter
from phalanx.infer.rows import InRectangles, Rectangle, together

STEP = 16
LARGE = 1 << 31  # bytes of weights that fit inside a file


def lacking() -> str:
    """Why it cannot be had here."""
    return absent("onnxruntime") or absent("onnx") or absent("onnxscript")


def precisions() -> tuple[str, ...]:
    """On CPUs."""
    return "fp32", "int8"


def build(wanted: Wanted) -> Program:
    """A session in this process."""
    import onnxruntime as ort

    session = ort.InferenceSession(str(_file(wanted)), options(ort), providers=["CPUExecutionProvider"])
    return InRectangles(Session(session), wanted.pad, wanted.loaded.context, wanted.per_token, STEP)


def options(ort: Any) -> Any:
    """As many threads as torch has."""
    made = ort.SessionOptions()
    made.intra_op_num_threads, made.inter_op_num_threads, made.log_severity_level = torch.get_num_threads(), 1, 3
    return made


class Session:
    """A session as a program of rectangles."""

    def __init__(self, session: Any) -> None:
        self.session = session

    def __call__(self, inputs: Rectangle) -> Array:
        """float32"""
        tokens, segment, mask = inputs
        names = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": segment}
        return together(self.session.run(None, names))


def _file(wanted: Wanted) -> Path:
    """The graph's file, made where it is not kept."""
    facts = "onnx", wanted.precision, wanted.hidden, store.versions("onnx", "onnxscript", "onnxruntime")
    file = store.folder() / f"{store.key(wanted.loaded, *facts)}.onnx"
    with store.alone(file):
        if not file.exists():
            plain = graph(wanted)
            if wanted.precision == "fp32":
                plain.rename(file)
            else:
                _rounded(plain, file)
    return file


def graph(wanted: Wanted) -> Path:
    """The fp32 graph in a file of its own."""
    made = BertGraph(wanted.loaded, wanted.hidden)
    file = store.folder() / f"{store.key(wanted.loaded, wanted.precision, wanted.hidden)}.partial.onnx"
    onnx_program(made).save(str(file), external_data=made.size() > LARGE)
    return file


def _rounded(plain: Path, file: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    narrow = not {"avx_vnni", "avx512_vnni"} & set(processor.features())  # else sums of pairs overflow
    beside = file.with_suffix(".partial")
    with quieter(""):  # its advice to run another tool first
        quantize_dynamic(plain, beside, per_channel=True, reduce_range=narrow, weight_type=QuantType.QInt8)
    beside.rename(file)
    plain.unlink()
