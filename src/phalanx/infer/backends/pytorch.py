"""torch: on a CPU packed products; on a GPU compiled blocks in CUDA graphs. Rows lie one after another, so that nothing
is filled up.
"""

from typing import Any

import torch

from phalanx.infer.backends import missing_precision
from phalanx.infer.backends.protocol import DecoderBackend, DecoderProgram, EncoderBackend, EncoderProgram, ProgramSpec
from phalanx.infer.batching import PackedBatcher
from phalanx.infer.bundle import ModelBundle
from phalanx.infer.cuda_graphs import has_compiler
from phalanx.infer.decoder import GIB, Decoder, enable_cache
from phalanx.infer.decoder_graphs import GraphedDecoder
from phalanx.infer.encoder import Encoder
from phalanx.infer.encoder_graphs import GraphedEncoder
from phalanx.nn.packed import enable_packing
from phalanx.precision import gemm, prepacked
from phalanx.spec.model import Spec


class Torch(EncoderBackend, DecoderBackend):
    """Computes every model that can be built, by its own modules with the weights in another precision."""

    def unavailable(self, spec: Spec, precision: str) -> str:
        """Return that this machine does not multiply in a precision, or that layers differ so that no cache holds the
        keys of all; "" if neither is so.
        """
        if spec.causal and len({(block.attention.kv_heads, block.attention.width) for block in spec.blocks}) > 1:
            return "its layers differ in their key heads, which one cache holds for all"
        return missing_precision(precision, prepacked.precisions(_device()))

    def encoder(self, program: ProgramSpec) -> EncoderProgram:
        """Make a program of a copy of the model that shares its weights in fp32."""
        model: Any = program.bundle.shared()
        device = next(model.parameters()).device
        prepacked.fill(model, program.precision, device)
        encoder = Encoder(model, program.per_token, program.hidden)

        graphs = device.type == "cuda" and program.precision != "fp32" and gemm.native_bf16(device)
        if graphs:  # which need flash attention, and that is for bf16 and fp16 from Ampere on
            return PackedBatcher(GraphedEncoder(encoder, program.bundle.context, device), program.per_token)
        enable_packing(model, kernel=False)
        return PackedBatcher(encoder, program.per_token)

    def decoder(self, bundle: ModelBundle, precision: str) -> DecoderProgram:
        """Make a program. Keys and values may take 1 GiB on a CPU, half of what is free on a GPU."""
        model: Any = bundle.shared()
        device, vocab, number = next(model.parameters()).device, bundle.tokenizer.vocab, prepacked.NUMBERS[precision]
        prepacked.fill(model, precision, device, model.words)

        if device.type == "cpu":
            program = Decoder(model, vocab, enable_cache(model, GIB, number))
            program.takes_drafts = precision != "int8"  # whose tokens are rounded by the largest of a call
            return program
        cache = enable_cache(model, torch.cuda.mem_get_info(device)[0] // 2, number)
        return (GraphedDecoder if has_compiler() else Decoder)(model, vocab, cache)


def _device() -> torch.device:
    """Return the kind of device that models are loaded on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
