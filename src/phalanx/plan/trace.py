"""One step of the real program on ranks that are not there.

The model is built and laid out by the code that trains it, in a process group that only pretends, on tensors that have
no memory: what a rank of thousands would hold, multiply and send is written down in seconds, on any machine. Weights
take no memory because they come to be inside the fake mode; everything before that is on the meta device anyhow.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from phalanx import registry
from phalanx.config import Config
from phalanx.models.build import make
from phalanx.nn.batch import Batch
from phalanx.nn.block import Block
from phalanx.parallel.layout import Layout
from phalanx.parallel.mesh import Mesh, make_mesh
from phalanx.plan.ledger import Ledger, Talk
from phalanx.precision import gemm

_aten = torch.ops.aten
DEVICE = torch.device("cpu")


@dataclass(frozen=True)
class Trace:
    """What a step of one rank took."""

    parameters: int  # held by the rank
    peak: dict[str, int]  # bytes by kind, when their sum was largest
    timeline: list[dict[str, int]]  # after every operation
    flops: int
    talks: dict[Talk, int]  # how often


def trace(config: Config, processes: int, rank: int) -> Trace:
    """A step of `rank` of so many processes; `config` is laid out for them."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with _pretending(processes, rank):
        mesh = make_mesh(config.layout, DEVICE)
        layout = Layout(config, mesh, partial(make, config.model), partial(_prepare, config), fake)
        ledger = Ledger(_axes(mesh))
        with fake, ledger, _Answers(_masked(config)):
            optimizers = registry.OPTIMIZERS.find(config.optim.name)(layout.parameters, config.optim)
            ledger.label("parameters", layout.parameters.values())
            ledger.label("optimizer", (t for o in optimizers for state in o.state.values() for t in state.values()))
            batch = layout.batch(_batch(config))
            size = config.layout.micro_batch
            batches = [batch.rows(start, start + size) for start in range(0, len(batch.tokens), size)]
            layout.backward(batches, lambda parts: torch.stack(list(parts.values())).sum())
            ledger.label("gradients", (p.grad for p in layout.parameters.values() if p.grad is not None))
            for optimizer in optimizers:
                optimizer.step()
    timeline = ledger.timeline()
    peak = max(timeline, key=lambda held: sum(held.values()))
    return Trace(sum(p.numel() for p in layout.parameters.values()), peak, timeline, ledger.flops, dict(ledger.talks))


class _Answers(TorchDispatchMode):
    """Answers what only the values of tensors could tell: how many positions a mask picks, and of any number that it
    is 1 (stages of a pipeline ask each other whether they know their shapes).
    """

    def __init__(self, picked: int) -> None:
        super().__init__()
        self.picked = picked

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _aten._local_scalar_dense.default:
            return 1
        if func is _aten.index.Tensor and args[1][0] is not None and args[1][0].dtype == torch.bool:
            mask: Tensor = args[1][0]
            found = mask.new_empty(self.picked, dtype=torch.int64)
            args = (args[0], [found] * mask.ndim, *args[2:])
        return func(*args, **(kwargs or {}))


def _masked(config: Config) -> int:
    """Positions of a micro-batch that BERT is asked about, on average."""
    return round(config.data.mask_fraction * config.layout.micro_batch * config.data.sequence / config.layout.cp)


@contextmanager
def _pretending(processes: int, rank: int) -> Iterator[None]:
    """A process group whose other ranks are not there."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=processes)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _prepare(config: Config, model: nn.Module) -> None:
    """As the trainer does, for a device that has what the precision needs."""
    gemm.fill(model, config.precision.dtype, torch.device("meta"))
    for block in (m for m in model.modules() if isinstance(m, Block)):
        block.recompute = config.layout.recompute


def _batch(config: Config) -> Batch:
    """A replica's sequences of zeros."""
    rows, length = config.train.batch // config.layout.dp, config.data.sequence
    tokens = torch.zeros(rows, length, dtype=torch.int64)
    index = torch.arange(rows * length).view(rows, length)
    return Batch(tokens, index, torch.zeros(rows, dtype=torch.int32), tokens)


def _axes(mesh: Mesh) -> dict[str, str]:
    """The axis of each group by the group's name; of two names for one group the first."""
    named: dict[str, str] = {}
    for name in ("tp", "cp", "pp", "dp", "data", "shards", "within", "world"):
        axis = getattr(mesh, name)
        if axis.group is not None and axis.size > 1:
            named.setdefault(axis.group.group_name, name)
    return named
