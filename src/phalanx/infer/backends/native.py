"""native: kernels of our own in C++, compiled for this processor when they are first wanted; rows lie one after
another, so that nothing is filled up.
"""

from typing import Any

from phalanx.infer import kernels
from phalanx.infer.backends.protocol import DecoderBackend, DecoderProgram, EncoderBackend, EncoderProgram, ProgramSpec
from phalanx.infer.batching import PackedBatcher
from phalanx.infer.bundle import ModelBundle
from phalanx.infer.decoder import GIB, Decoder
from phalanx.infer.encoder import Encoder
from phalanx.spec.model import Spec


class Native(EncoderBackend, DecoderBackend):
    """Computes models of GPT-2's and BERT's kind on CPUs, in fp32 and int8."""

    def unavailable(self, spec: Spec, precision: str) -> str:
        """Return what of a model the kernels do not know, or why they cannot be had here; "" if they compute it."""
        return kernels.unavailable(spec, precision)

    def encoder(self, program: ProgramSpec) -> EncoderProgram:
        """Make a program of the model's embeddings and head around blocks in C++."""
        model: Any = program.bundle.shared()
        kernels.install(model, program.precision)
        return PackedBatcher(Encoder(model, program.per_token, program.hidden), program.per_token)

    def decoder(self, bundle: ModelBundle, precision: str) -> DecoderProgram:
        """Make a program whose blocks, keys and values are the kernels'; its memory is 1 GiB."""
        model: Any = bundle.shared()
        return Decoder(model, bundle.tokenizer.vocab, kernels.install(model, precision, GIB).cache)
