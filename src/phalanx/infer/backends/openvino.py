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
from phalanx.infer import artifact_cache
from phalanx.infer.backends import missing_package, missing_precision
from phalanx.infer.backends.protocol import EncoderBackend, EncoderProgram, ProgramSpec
from phalanx.infer.batching import PaddedBatcher, PaddedRows, joined, pad_rows
from phalanx.infer.traced import TracedEncoder, untraceable
from phalanx.precision.gemm import native_bf16
from phalanx.spec.model import Spec

STEP = 16
SAMPLES, SAMPLE = 64, 128  # rows that ranges of activations are measured on, and their tokens


class OpenVINO(EncoderBackend):
    """Computes encoders on CPUs: in fp32, in bf16 where the processor has it, in int8 with NNCF."""

    def unavailable(self, spec: Spec, precision: str) -> str:
        """Return which package or precision is missing, or what of a model has no graph; "" if it is computed."""
        bf16 = native_bf16(torch.device("cpu"))
        possible = "fp32", *(("bf16",) if bf16 else ()), *(("int8",) if find_spec("nncf") else ())
        return missing_package("openvino") or untraceable(spec) or missing_precision(precision, possible)

    def encoder(self, program: ProgramSpec) -> EncoderProgram:
        """Make a compiled model in this process."""
        import openvino as ov

        number = "bf16" if program.precision == "bf16" else "f32"
        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": number}
        hints |= {"INFERENCE_NUM_THREADS": str(torch.get_num_threads())}
        model = _quantized(program) if program.precision == "int8" else _graph(program)
        compiled = ov.Core().compile_model(model, "CPU", hints)
        return PaddedBatcher(Compiled(compiled), program.pad, program.bundle.context, program.per_token, STEP)


class Compiled:
    """A compiled model as a program of rectangles."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled

    def __call__(self, inputs: PaddedRows) -> Array:
        """Return float32 [rows, length, width], or [rows, width] of a head that answers once for a row."""
        tokens, segment, mask = inputs
        results = self.compiled([tokens, mask, segment][: len(self.compiled.inputs)])
        return joined([results[output] for output in self.compiled.outputs])


def _graph(program: ProgramSpec) -> Any:
    """Return the fp32 graph as OpenVINO's model."""
    import openvino as ov

    traced = TracedEncoder(program.bundle, program.hidden)
    examples, free = zip(*traced.inputs.values(), strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ov.convert_model(torch.export.export(traced, examples, dynamic_shapes=free, strict=False))


def _quantized(program: ProgramSpec) -> Path:
    """Return the int8 graph's file; it is made where it is not kept."""
    versions = artifact_cache.versions("openvino", "nncf")
    key = artifact_cache.key(program.bundle, "openvino", program.precision, program.hidden, versions)
    file = artifact_cache.folder() / f"{key}.xml"
    with artifact_cache.locked(file):
        if not file.exists():
            _quantize(program, file)
    return file


def _quantize(program: ProgramSpec, file: Path) -> None:
    """Write the graph in int8 to `file`, and its weights beside."""
    import nncf
    import openvino as ov

    nncf.set_log_level("ERROR")
    samples = nncf.Dataset(list(_samples(program)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nncf.quantize(_graph(program), samples, model_type=nncf.ModelType.TRANSFORMER, subset_size=SAMPLES)

    beside = file.with_suffix(".partial.xml")
    ov.save_model(model, beside, compress_to_fp16=False)
    beside.with_suffix(".bin").rename(file.with_suffix(".bin"))
    beside.rename(file)


def _samples(program: ProgramSpec) -> Iterator[list[Array]]:
    """Yield inputs of the graph: rows of a bundled novel's tokens, and where the model tells segments apart two."""
    novel = files("phalanx") / "assets" / "novels" / "Doyle_Lost_1912.txt.xz"
    tokens = program.bundle.tokenizer.encode(lzma.decompress(novel.read_bytes()).decode()[: SAMPLES * SAMPLE * 8])
    length = min(SAMPLE, program.bundle.context)

    for start in range(0, min(len(tokens) - length, SAMPLES * length), length):
        row = Encoded(torch.tensor(tokens[start : start + length]).numpy(), length // 2)
        ids, segment, mask = pad_rows([row], program.pad, 1, length)
        yield [ids, mask, segment] if program.bundle.spec.segments > 1 else [ids, mask]
