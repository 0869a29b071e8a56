"""The probes that a group of processes times for a cluster file: products, memory, collectives, a step's kernels.

Each of the functions that build gives a step which runs all its probes and returns their seconds by name. In a group
of several all run the same probe at the same time.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from phalanx.config import Config, LayoutConfig
from phalanx.measure.synthetic import synthetic_step
from phalanx.measure.worker_group import Step
from phalanx.nn.slots import Slot
from phalanx.parallel import comm
from phalanx.parallel.mesh import Axis, make_mesh
from phalanx.precision import gemm

Probe = Callable[[], Any]

SIDES = {"cpu": (32, 64, 128, 256, 512, 1024), "cuda": (64, 128, 256, 512, 1024, 2048, 4096, 8192)}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
COPIED = 1 << 26  # bytes of a copy: more than caches hold
SIZES = {"cpu": (1 << 12, 1 << 16, 1 << 20, 1 << 22, 1 << 24), "cuda": (1 << 12, 1 << 16, 1 << 20, 1 << 24, 1 << 28)}
LONG = 1e8  # FLOPs or bytes after which a probe has run often enough
LAUNCHES = 1000

# Which operators are of which kind of kernel in plan/kernels.py; what is named nowhere moves the stream about.
KINDS = {
    "products": (
        "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "phalanx::linear", "mkldnn::_linear_pointwise",
    ),
    "gelu": ("aten::gelu", "aten::gelu_backward"),
    "norm": ("aten::native_layer_norm", "aten::native_layer_norm_backward"),
    "loss": ("aten::_log_softmax", "aten::exp_", "aten::gather", "aten::scatter_add_"),
    "embedding": ("aten::embedding", "aten::embedding_dense_backward"),
    "optimizer": ("aten::_fused_adamw_", "aten::linalg_vector_norm", "aten::_foreach_mul_"),
}  # fmt: skip
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}


def products(device: str, dtypes: tuple[str, ...]) -> Step:
    """Build the probes of square layers with their gradients by "dtype side", of a copy, and of an idle kernel."""
    on = torch.device(device)
    probes: dict[str, tuple[Probe, float]] = {}
    for name in dtypes:
        for side in SIDES[device]:
            probes[f"{name} {side}"] = _layer(side, DTYPES[name], on), 6 * side**3

    source, target = (torch.ones(COPIED // 4, device=on) for _ in range(2))
    little = torch.ones(16, device=on)
    probes["copy"] = lambda: target.copy_(source), COPIED
    probes["launch"] = lambda: little.add_(1.0), LONG / LAUNCHES

    def step(_: int) -> dict[str, float]:
        return {name: timed(probe, max(2, round(LONG / work)), on) for name, (probe, work) in probes.items()}

    return step


def busy(device: str) -> Step:
    """Build the probes of a product and a copy, while the neighbours do the same."""
    on = torch.device(device)
    layer, source = _layer(SIDES[device][-2], torch.float32, on), torch.ones(COPIED // 4, device=on)
    target = torch.empty_like(source)

    def step(_: int) -> dict[str, float]:
        return {"products": timed(layer, 3, on), "others": timed(lambda: target.copy_(source), 5, on)}

    return step


def links(device: str) -> Step:
    """Build the probes of all-reduce, and of all-gather with reduce-scatter as sequence parallelism has them, by
    "name bytes"; and of how an all-reduce and a product go together.
    """
    on, size = torch.device(device), dist.get_world_size()
    axis = make_mesh(LayoutConfig(tp=size, dp=1), on).tp
    whole, gather, scatter = comm.total(axis), comm.conjugate("gather", axis), comm.conjugate("scatter", axis)

    probes: dict[str, tuple[Probe, int]] = {}
    for count in SIZES[device]:
        x = torch.ones(4, count // 16 // 64, 64, device=on)
        times = max(2, min(20, SIZES[device][-1] // count))
        probes[f"sum {count}"] = partial(whole, x), times
        probes[f"scatter {count}"] = partial(_both_ways, gather, scatter, x, x.chunk(size, 1)[0].contiguous()), times

    layer = _layer(SIDES[device][-2], torch.float32, on)
    buffer = torch.ones(SIZES[device][-1] // 4, device=on)

    def both() -> None:
        # The all-reduce begins before the product, so that they run side by side.
        work = dist.all_reduce(buffer, group=axis.group, async_op=True)
        layer()
        assert work is not None
        work.wait()

    probes |= {"compute": (layer, 2), "both": (both, 2)}

    def step(_: int) -> dict[str, float]:
        return {name: timed(probe, times, on, axis) for name, (probe, times) in probes.items()}

    return step


def _both_ways(gather: Slot, scatter: Slot, whole: Tensor, part: Tensor) -> None:
    gather(part)
    scatter(whole)


def training(config: Config) -> Step:
    """Build a training step that returns its seconds by kind of kernel, from the profiler."""
    step = synthetic_step(config)
    cuda = config.train.device == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda

    def profiled(number: int) -> dict[str, float]:
        with _silence(), profile(activities=activities) as record:
            step(number)

        seconds: defaultdict[str, float] = defaultdict(float)
        for event in record.key_averages():
            kind = KIND_OF.get(event.key, "attention" if "attention" in event.key else "sum")
            seconds[kind] += (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6
        return dict(seconds)

    return profiled


@contextmanager
def _silence() -> Iterator[None]:
    """Close standard error for a while: the profiler's library writes there when it starts and stops."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def timed(probe: Probe, times: int, device: torch.device, axis: Axis | None = None) -> float:
    """Return the seconds of one call of `times` in a row, which all processes of `axis` begin together."""
    probe()  # the first call is slow
    if axis:
        dist.barrier()

    # What was launched before must have ended, and what is timed must end before the clock is read.
    _settle(device)
    begin = time.perf_counter()
    for _ in range(times):
        probe()
    _settle(device)
    return (time.perf_counter() - begin) / times


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _layer(side: int, dtype: torch.dtype, device: torch.device) -> Probe:
    """Return the function that computes forward and both gradients of a square layer."""
    x, weight, grad = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(3))
    multiply = gemm.product(dtype, device)

    def layer() -> tuple[Tensor, Tensor, Tensor]:
        return multiply(x, weight), multiply(grad, weight.t()), multiply(grad.t(), x.t())

    return layer
