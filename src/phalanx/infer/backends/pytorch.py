"""torch: on a CPU packed products; on a GPU compiled blocks in CUDA graphs. Rows lie one after another, so that nothing
is filled up.
"""

from typing import Any

import torch

from phalanx.infer.backends import Program, Wanted
from phalanx.infer.recorded import Recorded
from phalanx.infer.rows import Apart, Eager, OneAfterAnother, Said
from phalanx.precision import gemm, packed


def lacking() -> str:
    """It is always here."""
    return ""


def precisions() -> tuple[str, ...]:
    """On this machine."""
    return packed.precisions(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def build(wanted: Wanted) -> Program:
    """The model itself in another precision; its weights are shared with the one it was loaded as."""
    model: Any = wanted.loaded.shared()
    device = next(model.parameters()).device
    packed.fill(model, wanted.precision, device)
    said = Said(model, wanted.per_token, wanted.hidden)
    recorded = device.type == "cuda" and wanted.precision != "fp32" and gemm.native_bf16(device)
    if not recorded:  # flash attention, which graphs need, is for bf16 and fp16 from Ampere on
        return OneAfterAnother(Eager(said, Apart(model), device), wanted.per_token)
    return OneAfterAnother(Recorded(said, wanted.loaded.context, device), wanted.per_token)
