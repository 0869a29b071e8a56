"""onnxruntime on the model's ONNX graph; int8 by its dynamic quantisation. Graphs are kept between starts."""

from pathlib import Path
from typing import Any

import torch

from phalanx import processor
from phalanx.data.source import Array
from phalanx.infer import artifact_cache
from phalanx.infer.backends import missing_package, missing_precision
from phalanx.infer.backends.protocol import EncoderBackend, EncoderProgram, ProgramSpec
from phalanx.infer.batching import PaddedBatcher, PaddedRows, joined
from phalanx.infer.traced import TracedEncoder, onnx_program, quieter, untraceable
from phalanx.spec.model import Spec

STEP = 16
LARGE = 1 << 31  # bytes of weights that fit inside a file
PACKAGES = "onnxruntime", "onnx", "onnxscript"


class OnnxRuntime(EncoderBackend):
    """Computes encoders on CPUs, in fp32 and int8."""

    def unavailable(self, spec: Spec, precision: str) -> str:
        """Return which package or precision is missing, or what of a model has no graph; "" if it is computed."""
        return missing_package(*PACKAGES) or untraceable(spec) or missing_precision(precision, ("fp32", "int8"))

    def encoder(self, program: ProgramSpec) -> EncoderProgram:
        """Make a session in this process."""
        import onnxruntime as ort

        session = ort.InferenceSession(str(_file(program)), options(ort), providers=["CPUExecutionProvider"])
        return PaddedBatcher(Session(session), program.pad, program.bundle.context, program.per_token, STEP)


def options(ort: Any) -> Any:
    """Return options of a session: as many threads as torch has."""
    made = ort.SessionOptions()
    made.intra_op_num_threads, made.inter_op_num_threads, made.log_severity_level = torch.get_num_threads(), 1, 3
    return made


class Session:
    """A session as a program of rectangles."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.names = {given.name for given in session.get_inputs()}

    def __call__(self, inputs: PaddedRows) -> Array:
        """Return float32 [rows, length, width], or [rows, width] of a head that answers once for a row."""
        tokens, segment, mask = inputs
        names = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": segment}
        return joined(self.session.run(None, {name: given for name, given in names.items() if name in self.names}))


def graph(program: ProgramSpec) -> Path:
    """Write the fp32 graph into a file of its own, and return that."""
    traced = TracedEncoder(program.bundle, program.hidden)
    key = artifact_cache.key(program.bundle, program.precision, program.hidden)
    file = artifact_cache.folder() / f"{key}.partial.onnx"
    onnx_program(traced).save(str(file), external_data=traced.size() > LARGE)
    return file


def _file(program: ProgramSpec) -> Path:
    """Return the file of the graph in the program's precision; it is made where it is not kept."""
    versions = artifact_cache.versions("onnx", "onnxscript", "onnxruntime")
    key = artifact_cache.key(program.bundle, "onnx", program.precision, program.hidden, versions)
    file = artifact_cache.folder() / f"{key}.onnx"
    with artifact_cache.locked(file):
        if not file.exists():
            plain = graph(program)
            if program.precision == "fp32":
                plain.rename(file)
            else:
                _quantize(plain, file)
    return file


def _quantize(plain: Path, file: Path) -> None:
    """Write a graph in int8 to `file`, and remove the fp32 one."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    narrow = not {"avx_vnni", "avx512_vnni"} & set(processor.features())  # else sums of pairs overflow
    beside = file.with_suffix(".partial")
    with quieter(""):  # its advice to run another tool first
        quantize_dynamic(plain, beside, per_channel=True, reduce_range=narrow, weight_type=QuantType.QInt8)
    beside.rename(file)
    plain.unlink()
