"""This machine as a cluster of the plan, from the medians of rounds of probes."""

import os
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import numpy as np
import torch

from phalanx import recipe
from phalanx.config import Config
from phalanx.measure import probes
from phalanx.measure.worker_group import WorkerGroup
from phalanx.plan import kernels
from phalanx.plan.cluster import Cluster
from phalanx.plan.workload import Workload
from phalanx.precision.gemm import native_bf16
from phalanx.train.machine import this_machine
from phalanx.train.peak import name_of
from phalanx.train.resolve import resolve

# The step whose kernels are timed, by device and family.
SIZES = {
    "cpu": ("layers=2", "hidden=512", "heads=8", "vocab=8192"),
    "cuda": ("layers=4", "hidden=2048", "heads=16", "vocab=50304"),
}
LENGTHS = {"cpu": ("data.sequence=256", "train.batch=4"), "cuda": ("data.sequence=1024", "train.batch=8")}
FAMILIES = {
    "gpt2": ("model.family=gpt2", "task=clm"),
    "bert": ("model.family=bert", "task=mlm", "model.segments=2", "model.positions=1024"),
}
LEAST = 1e-7  # seconds of a latency that is none
MOVED = ("gelu", "norm", "loss", "embedding", "optimizer")
STREAM = ("sum", "order")  # told apart by the plan, not by the profiler

Samples = dict[str, list[float]]


class Calibration:
    """The samples of a machine, a set more with each round.

    `counts` are the sizes of groups, to which 1 is added; `available` is the number of cores or GPUs.
    """

    def __init__(self, device: str, counts: Sequence[int], available: int) -> None:
        self.device, self.counts, self.available = device, sorted({1, *counts}), available
        self.dtypes = ("fp32", "bf16") if native_bf16(torch.device(device)) else ("fp32",)
        self.configs = {family: _config(device, family) for family in FAMILIES}
        self.samples: dict[str, Samples] = {}  # by group
        self.groups: dict[str, WorkerGroup] = {}

    @property
    def names(self) -> list[str]:
        """Names of the process groups, each of which takes a turn in every round."""
        of_groups = [f"{kind} {count}" for count in self.counts if count > 1 for kind in ("busy", "links")]
        return ["products", *self.configs, "busy 1", *of_groups]

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Keep the processes alive, around the rounds."""
        with ExitStack() as stack:
            for name in self.names:
                self.groups[name] = stack.enter_context(self._group(name))
                self.samples[name] = defaultdict(list)
            for group in self.groups.values():
                group.turn()  # the first step is slow
            yield self

    def _group(self, name: str) -> WorkerGroup:
        kind, _, count = name.partition(" ")
        if kind == "products":
            return WorkerGroup(1, probes.products, self.device, self.dtypes, device=self.device)
        if kind in self.configs:
            return WorkerGroup(1, probes.training, self.configs[kind], device=self.device)
        build = probes.busy if kind == "busy" else probes.links
        return WorkerGroup(int(count), build, self.device, device=self.device)

    def round(self) -> None:
        """Run a turn of every group."""
        for name in self.names:
            self.turn(name)

    def turn(self, name: str) -> None:
        """Run a group's probes; of several processes the slowest counts."""
        values: list[dict[str, float]] = self.groups[name].turn().values
        for probe in values[0]:
            self.samples[name][probe].append(max(value[probe] for value in values))

    def median(self, group: str, probe: str) -> float:
        """Return the median seconds of a group's probe."""
        return statistics.median(self.samples[group][probe])

    def products(self) -> dict[str, dict[int, float]]:
        """Return the FLOP/s of a square layer by precision and side."""
        return {
            dtype: {
                side: 6 * side**3 / self.median("products", f"{dtype} {side}") for side in probes.SIDES[self.device]
            }
            for dtype in self.dtypes
        }

    def family(self, name: str) -> dict[str, Any]:
        """Return the speeds of a family's kernels: attention's FLOP/s, and bytes a second of the others by kind."""
        work = Workload.of(self.configs[name])
        counted, attention = _counted(work)
        seconds = {kind: self.median(name, kind) for kind in (*MOVED, "sum", "attention")}
        moved = {kind: counted[kind] / seconds[kind] for kind in MOVED}
        moved |= dict.fromkeys(STREAM, sum(counted[kind] for kind in STREAM) / seconds["sum"])
        return {"attention": attention / seconds["attention"], "moved": moved}

    def busy(self) -> dict[int, dict[str, float]]:
        """Return how many times longer products and other kernels take beside busy neighbours, by size of the group."""
        return {
            count: {
                kind: max(1.0, self.median(f"busy {count}", kind) / self.median("busy 1", kind))
                for kind in ("products", "others")
            }
            for count in self.counts[1:]
        }

    def hidden(self) -> float:
        """Return the share of an all-reduce's time, from 0 to 1, that a product hides, in the largest group."""
        group = f"links {self.counts[-1]}"
        product, both = (self.median(group, name) for name in ("compute", "both"))
        reduced = self.median(group, f"sum {probes.SIZES[self.device][-1]}")
        return min(1.0, max(0.0, (product + reduced - both) / min(product, reduced)))

    def link(self) -> dict[str, Any]:
        """Return seconds of latency, bytes a second by members, and the share of these that gather and scatter have."""
        if len(self.counts) == 1:
            return {"bandwidth": 1e9, "latency": 1e-4, "hop": 1e-5}
        fits = {count: self._line(count, "sum", 2 * (count - 1) / count) for count in self.counts[1:]}

        latency, hop = _growing({count: latency for count, (latency, _) in fits.items()})
        shares = [
            self._line(count, "scatter", 2 * (count - 1) / count)[1] / bandwidth
            for count, (_, bandwidth) in fits.items()
        ]
        return {
            "bandwidth": fits[self.counts[-1]][1],
            "latency": latency,
            "hop": hop,
            "by_members": {count: bandwidth for count, (_, bandwidth) in fits.items()},
            "scatter": statistics.mean(shares),
        }

    def sums(self) -> dict[int, list[tuple[int, float]]]:
        """Return bytes and seconds of all-reduces, by size of the group."""
        sizes = probes.SIZES[self.device]
        return {n: [(size, self.median(f"links {n}", f"sum {size}")) for size in sizes] for n in self.counts[1:]}

    def _line(self, count: int, name: str, passes: float) -> tuple[float, float]:
        """Return latency and bandwidth of the line through a group's times by size, each weighed by its own length."""
        sizes = np.array(probes.SIZES[self.device], dtype=float)
        seconds = np.array([self.median(f"links {count}", f"{name} {int(size)}") for size in sizes])
        columns = np.stack([1 / seconds, passes * sizes / seconds], 1)
        (latency, per_byte), *_ = np.linalg.lstsq(columns, np.ones(len(sizes)), rcond=None)
        return max(LEAST, float(latency)), 1 / max(1e-13, float(per_byte))

    def cluster(self) -> Cluster:
        """Return this machine as a cluster of the plan."""
        on, link, products = torch.device(self.device), self.link(), self.products()
        copied = 2 * probes.COPIED / self.median("products", "copy")
        launch = self.median("products", "launch")
        cpu = self.device == "cpu"

        gpu = {
            "name": "a core of " + name_of(on) if cpu else name_of(on),
            "units": 1 if cpu else torch.cuda.get_device_properties(on).multi_processor_count,
            "memory": _memory() / self.available if cpu else torch.cuda.get_device_properties(on).total_memory,
            "bandwidth": copied,
            "peak": {dtype: max(rates.values()) for dtype, rates in products.items()},
        }

        fitted = {"matrix": 1.0, "ramp": 0.0, "stream": 1.0}
        fitted |= {"host": 1e-9, "kernel": launch} if cpu else {"host": launch}
        measured = {
            "products": products,
            "families": {name: self.family(name) for name in self.configs},
            "busy": self.busy(),
            "hidden": self.hidden() if len(self.counts) > 1 else 0.0,
        }

        title = f"{self.available} {'cores' if cpu else 'GPUs'} of {name_of(on)}"
        between = {"bandwidth": 1e8, "latency": 5e-5, "hop": 1e-5}
        return Cluster.model_validate(
            {"title": title, "node": self.available, "gpu": gpu, "inside": link, "between": between, "fitted": fitted,
             "measured": measured}
        )  # fmt: skip


def _growing(latencies: dict[int, float]) -> tuple[float, float]:
    """Return the latency of no members and that of each more, both positive: the line nearest to those of groups."""
    counts, seconds = np.array(list(latencies), dtype=float), np.array(list(latencies.values()))
    if len(counts) > 1:
        hop, start = np.polyfit(counts, seconds, 1)
        if hop > 0 and start > 0:
            return float(start), float(hop)
        if hop > 0:
            return LEAST, float(counts @ seconds / (counts @ counts))
    return max(LEAST, float(seconds.mean())), LEAST


def _config(device: str, family: str) -> Config:
    sizes = [f"model.{word}" for word in SIZES[device]]
    words = [f"train.device={device}", *FAMILIES[family], *sizes, *LENGTHS[device]]
    config = recipe.from_words([*words, "train.compile=off"])
    return resolve(config, this_machine(config.train))


def _counted(work: Workload) -> tuple[dict[str, float], float]:
    """Return the bytes that the plan counts in a step of one process, by kind, and the FLOPs of its attention."""
    blocks = [kernels.Block(work, block) for block in work.spec.blocks]
    of_blocks = [kernel for block in blocks for kernel in (*block.forward(), *block.backward())]
    ends = [kernel for forward in (True, False) for kernel in kernels.head(work, forward)]
    ends += [kernel for forward in (True, False) for kernel in kernels.embedding(work, forward)]
    ends += kernels.optimizer(work, work.parameters)

    counted: defaultdict[str, float] = defaultdict(float)
    for kernel in of_blocks + ends:
        counted[kernel.kind] += kernel.bytes * kernel.times
    return counted, sum(kernel.flops for kernel in of_blocks if kernel.kind == "flash")


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
