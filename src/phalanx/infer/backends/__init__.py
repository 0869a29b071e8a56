"""Who computes a BERT: each backend makes a program of a model, and all give the same answers.

A program takes rows of tokens of any length and gives for each float32 [length, …] (`per_token`) or […]. A backend is a
module here with `lacking` (why it cannot be had here, or nothing), `precisions` and `build`; one that does not compute
every encoder says why not by `unsupported`.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from phalanx.data.labelled import Encoded
from phalanx.data.source import Array
from phalanx.errors import InputError
from phalanx.infer.loaded import Loaded
from phalanx.nn.answer import POOLED
from phalanx.spec.model import Spec

NAMES = {"torch": "pytorch", "native": "native", "onnxruntime": "onnx", "openvino": "vino", "tensorrt": "tensorrt"}

Program = Callable[[Sequence[Encoded]], list[Array]]


class Wanted(NamedTuple):
    """What a program is made of: what its head says, or what lies under it (`hidden`)."""

    loaded: Loaded
    precision: str
    hidden: bool

    @property
    def per_token(self) -> bool:
        """Whether it answers at every token."""
        return self.hidden or self.loaded.spec.tuned not in POOLED

    @property
    def pad(self) -> int:
        """The token that fills up."""
        return self.loaded.tokenizer.pad or 0


def of(name: str) -> Any:
    """The module of a backend."""
    if name not in NAMES:
        raise InputError(f"backend={name} is not known; use auto or one of {', '.join(NAMES)}")
    return import_module(f"phalanx.infer.backends.{NAMES[name]}")


def lacking(name: str, precision: str, spec: Spec) -> str:
    """Why a backend cannot be had here for a model in a precision; nothing if it can."""
    module = of(name)
    if reason := (module.unsupported(spec) if hasattr(module, "unsupported") else "") or module.lacking():
        return str(reason)
    possible = module.precisions()
    return "" if precision in possible else f"it has {' and '.join(possible)} here, not {precision}"


def absent(package: str) -> str:
    """That a package is not installed, where it is not."""
    return "" if find_spec(package) else f"the package {package} is not installed"


def build(name: str, wanted: Wanted) -> Program:
    """A backend's program; InputError where it cannot be had."""
    if reason := lacking(name, wanted.precision, wanted.loaded.spec):
        raise InputError(f"backend={name}: {reason}")
    program: Program = of(name).build(wanted)
    return program
