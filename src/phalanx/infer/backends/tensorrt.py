"""TensorRT through onnxruntime's provider, which builds engines from the model's ONNX graph and keeps them.

It has not run on a GPU yet.
"""

from phalanx.infer import store
from phalanx.infer.backends import Program, Wanted, absent
from phalanx.infer.backends.onnx import Session, graph, options
from phalanx.infer.rows import InRectangles

PROVIDER = "TensorrtExecutionProvider"
STEP = 32


def lacking() -> str:
    """Why it cannot be had here."""
    if reason := absent("onnxruntime") or absent("onnx") or absent("onnxscript"):
        return reason
    import onnxruntime as ort

    return "" if PROVIDER in ort.get_available_providers() else "onnxruntime was built without TensorRT"


def precisions() -> tuple[str, ...]:
    """Those of TensorRT."""
    return "fp32", "bf16", "fp16"


def build(wanted: Wanted) -> Program:
    """A session on the GPU."""
    import onnxruntime as ort

    engines = {
        "trt_fp16_enable": wanted.precision == "fp16",
        "trt_bf16_enable": wanted.precision == "bf16",
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(store.folder()),
        "trt_cuda_graph_enable": True,
    }
    providers = [(PROVIDER, engines), "CUDAExecutionProvider"]
    session = ort.InferenceSession(str(graph(wanted)), options(ort), providers=providers)
    return InRectangles(Session(session), wanted.pad, wanted.loaded.context, wanted.per_token, STEP)
