"""TensorRT through onnxruntime's provider, which builds engines from the model's ONNX graph and keeps them.

It has not run on a GPU yet.
"""

from phalanx.infer import artifact_cache
from phalanx.infer.backends import missing_package, missing_precision
from phalanx.infer.backends.onnxruntime import PACKAGES, Session, graph, options
from phalanx.infer.backends.protocol import EncoderBackend, EncoderProgram, ProgramSpec
from phalanx.infer.batching import PaddedBatcher
from phalanx.infer.traced import untraceable
from phalanx.spec.model import Spec

PROVIDER = "TensorrtExecutionProvider"
STEP = 32


class TensorRT(EncoderBackend):
    """Computes encoders on GPUs, in fp32, bf16 and fp16."""

    def unavailable(self, spec: Spec, precision: str) -> str:
        """Return what is missing here, or what of a model has no graph; "" if it is computed."""
        if reason := missing_package(*PACKAGES):
            return reason
        import onnxruntime as ort

        if PROVIDER not in ort.get_available_providers():
            return "onnxruntime was built without TensorRT"
        return untraceable(spec) or missing_precision(precision, ("fp32", "bf16", "fp16"))

    def encoder(self, program: ProgramSpec) -> EncoderProgram:
        """Make a session on the GPU."""
        import onnxruntime as ort

        engines = {
            "trt_fp16_enable": program.precision == "fp16",
            "trt_bf16_enable": program.precision == "bf16",
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(artifact_cache.folder()),
            "trt_cuda_graph_enable": True,
        }
        providers = [(PROVIDER, engines), "CUDAExecutionProvider"]
        session = ort.InferenceSession(str(graph(program)), options(ort), providers=providers)
        return PaddedBatcher(Session(session), program.pad, program.bundle.context, program.per_token, STEP)
