"""native: kernels of our own in C++, compiled for this processor when they are first wanted; rows lie one after
another, so that nothing is filled up.
"""

from typing import Any

import torch

from phalanx.infer import kernels
from phalanx.infer.backends import Program, Wanted
from phalanx.infer.rows import Eager, OneAfterAnother, Said
from phalanx.spec.model import Spec


def lacking() -> str:
    """Why it cannot be had here."""
    return kernels.lacking()


def unsupported(spec: Spec) -> str:
    """Why it does not compute a model."""
    return kernels.unsupported(spec)


def precisions() -> tuple[str, ...]:
    """On processors with AVX2."""
    return kernels.PRECISIONS


def build(wanted: Wanted) -> Program:
    """The model's embeddings and head around blocks in C++."""
    model: Any = wanted.loaded.shared()
    blocks = kernels.fill(model, wanted.precision)
    said = Said(model, wanted.per_token, wanted.hidden)
    return OneAfterAnother(Eager(said, blocks, torch.device("cpu")), wanted.per_token)
