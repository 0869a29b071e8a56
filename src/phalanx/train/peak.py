"""How fast this device multiplies matrices: what MFU is measured against.

MFU = FLOPs a token × tokens a second ÷ this peak. It is measured, not looked up: data sheets do not know the power
limit or the number of threads. A busy neighbour makes a measurement too low, so the highest of all processes so far
counts; it is kept in the user's cache folder.
"""

import functools
import json
import os
import time
from pathlib import Path

import torch

from phalanx import processor
from phalanx.precision import gemm

SECONDS = 0.2  # spent on a measurement: long enough to leave a low clock and to meet a quiet moment


@functools.cache
def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product in `dtype`; in fp32 where the processor has no units for `dtype`."""
    if device.type == "cpu" and not (dtype == torch.bfloat16 and gemm.native_bf16(device)):
        dtype = torch.float32
    key = ", ".join([
        name_of(device), *_instructions(device), f"{torch.get_num_threads()} threads", str(dtype),
        f"torch {torch.__version__}",
    ])  # fmt: skip
    path = _cache() / "peak.json"
    known = _load(path)
    rate = measured(device, dtype, 8192 if device.type == "cuda" else 1024)
    if rate > known.get(key, 0.0):
        _store(path, {**known, key: rate})
    return max(rate, known.get(key, 0.0))


def measured(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """FLOP/s of the best of many products of square matrices, as a run multiplies them."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    multiply = gemm.product(dtype, device)
    best, stop = float("inf"), time.perf_counter() + SECONDS
    with torch.no_grad():
        while time.perf_counter() < stop:
            start = time.perf_counter()
            multiply(a, b)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def name_of(device: torch.device) -> str:
    """What its maker calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor.name()


def _instructions(device: torch.device) -> tuple[str, ...]:
    """Which of its instructions a CPU is to use."""
    return (torch.backends.cpu.get_cpu_capability(), *processor.caps()) if device.type == "cpu" else ()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phalanx"


def _load(path: Path) -> dict[str, float]:
    """What was measured before; nothing where the file cannot be used."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: rate for key, rate in known.items() if isinstance(rate, float)} if isinstance(known, dict) else {}


def _store(path: Path, known: dict[str, float]) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(known, indent=1), encoding="utf-8")
        beside.replace(path)
    except OSError:
        return  # a read-only home only loses what this process learned
