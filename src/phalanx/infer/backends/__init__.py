"""Backends by name, and the programs that they make of a model. All backends give the same answers.

`phalanx.infer.backends.protocol` says what a backend has to do. One is named as in `registry.BACKENDS`, or by
"module:Name".
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Literal

import torch

from phalanx.errors import InputError
from phalanx.infer.backends.checked import CheckedDecoder, CheckedEncoder
from phalanx.infer.backends.protocol import DecoderProgram, EncoderProgram, ProgramSpec
from phalanx.infer.bundle import ModelBundle
from phalanx.registry import BACKENDS, blamed
from phalanx.spec.model import Spec

NAMES = tuple(BACKENDS.places)

Kind = Literal["encoder", "decoder"]


def computes(name: str, kind: Kind) -> bool:
    """Return whether a backend has the method `kind`: "encoder" or "decoder". InputError for an unknown name."""
    return hasattr(BACKENDS.find(name), kind)


def unavailable(name: str, kind: Kind, spec: Spec, precision: str) -> str:
    """Return why a backend cannot compute a model as `kind`, "encoder" or "decoder", in a precision; "" if it can.

    InputError for an unknown name.
    """
    if not computes(name, kind):
        return wrong_kind(kind)
    with blamed("backend", name, "unavailable()"):
        reason = BACKENDS.find(name)().unavailable(spec, precision)
    if not isinstance(reason, str):
        raise InputError(f'backend={name}: unavailable() gave {reason!r:.60}, not text, which is "" where it computes')
    return reason


def wrong_kind(kind: Kind) -> str:
    """Return a message about a backend that does not compute models of a `kind`, "encoder" or "decoder"."""
    return f"it computes no {kind}s; use auto, {', '.join(name for name in NAMES if computes(name, kind))}"


def require(name: str, kind: Kind, spec: Spec, precision: str) -> Any:
    """Return the backend itself; InputError where it cannot compute the model."""
    if reason := unavailable(name, kind, spec, precision):
        raise InputError(f"backend={name}: {reason}")
    return BACKENDS.find(name)()


def encoder_program(name: str, program: ProgramSpec) -> EncoderProgram:
    """Make a backend's program of an encoder; InputError where the backend cannot compute it."""
    backend = require(name, "encoder", program.bundle.spec, program.precision)
    with blamed("backend", name, "encoder()"):
        made = backend.encoder(program)
    return CheckedEncoder(name, program, made)


def decoder_program(name: str, bundle: ModelBundle, precision: str) -> DecoderProgram:
    """Make a backend's program of a decoder; InputError where the backend cannot compute it."""
    backend = require(name, "decoder", bundle.spec, precision)
    with blamed("backend", name, "decoder()"):
        made: DecoderProgram = backend.decoder(bundle, precision)
    return made if name in NAMES else CheckedDecoder(name, bundle.tokenizer.vocab, made)


def decoder_backend(spec: Spec, precision: str, log: Callable[[str], None]) -> str:
    """Return the fastest backend for a decoder: our own kernels, or else torch. `log` gets why it is not the kernels,
    which are for CPUs. InputError where neither has the precision.
    """
    reason = unavailable("native", "decoder", spec, precision)
    if reason and unavailable("torch", "decoder", spec, precision):
        raise InputError(f"precision={precision}: no backend has it here; use fp32")
    if reason and not torch.cuda.is_available():
        log(f"phalanx: computed by torch; native: {reason}")
    return "torch" if reason else "native"


def missing_package(*packages: str) -> str:
    """Return a message about the first of `packages` that is not installed; "" if all are."""
    return next((f"the package {name} is not installed" for name in packages if not find_spec(name)), "")


def missing_precision(precision: str, possible: Sequence[str]) -> str:
    """Return a message that lists the precisions `possible`; "" if `precision` is one of them."""
    return "" if precision in possible else f"it has {' and '.join(possible)} here, not {precision}"
