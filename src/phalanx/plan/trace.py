"""One step of the real program on ranks that are not there.

The model is built and laid out by the code that trains it, in a process group that only pretends, on tensors that have
no memory: what a rank of thousands would hold, multiply and send is written down in seconds, on any machine. Blocks are
traced uncompiled; compiled ones hold less. Masks are there but not drawn, as the hash would take longer than all else.
"""

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed.fsdp import FSDPModule
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from phalanx.config import Config
from phalanx.heads.head import head_of
from phalanx.models.family import spec_of
from phalanx.nn import logit_chunks, random
from phalanx.nn.attention import Context
from phalanx.nn.batch import Batch
from phalanx.nn.block import Block
from phalanx.optimizer import build
from phalanx.parallel.layout import Layout
from phalanx.parallel.mesh import make_mesh
from phalanx.plan.comm_counter import CommCounter
from phalanx.plan.communication import Message
from phalanx.plan.memory_profiler import KINDS, MemoryProfiler
from phalanx.plan.op_recorder import Operation, OpRecorder
from phalanx.plan.rank import RankShard, labels
from phalanx.precision.scale import LossScale
from phalanx.registry import blamed
from phalanx.train.prepare import prepare
from phalanx.train.trainer import forward_backward

_aten = torch.ops.aten
_ONE_PIECE = (1 << 62, 1 << 62)  # of logits, which take no memory here


@dataclass(frozen=True)
class Trace:
    """The messages, FLOPs, memory and operations of one rank's step."""

    rank: int
    parameters: int  # held by the rank
    timeline: NDArray[np.int64]  # bytes after every operation, by kind: [operations, kinds]
    flops: int
    messages: Counter[Message]
    operations: list[Operation]  # in their order, where they were asked for

    @property
    def peak(self) -> dict[str, int]:
        """Return the bytes by kind when their sum was largest."""
        most = self.timeline[self.timeline.sum(1).argmax()]
        return dict(zip(KINDS, most.tolist(), strict=True))


def trace(
    config: Config,
    processes: int,
    rank: int = 0,
    device: str = "cuda",
    record: bool = False,
    progress: Callable[[], None] = lambda: None,
) -> Trace:
    """Return the trace of the second step of `rank` of so many processes; `config` is resolved for them.

    A first step, with blocks that do nothing and logits in one piece, comes before it, so that moments are there and
    pipelines have met. The device says in how large pieces the logits come; `record` asks for all operations;
    `progress` is called at each block's forward.
    """
    config = config.updated(train={"device": "cpu", "compile": "off"})
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with _pretending(processes, rank):
        spec = spec_of(config.model)
        mesh = make_mesh(config.layout, torch.device("cpu"), spec)
        layout = Layout(config, mesh, spec, partial(prepare, config=config, device=torch.device("meta")), fake)
        optimizers = build(config.optim, layout.parameters)

        memory, comm = MemoryProfiler(), CommCounter(config.layout)
        sizes = logit_chunks.LIMITS[device], _ONE_PIECE
        limits, whole = (mock.patch.dict(logit_chunks.LIMITS, cpu=size) for size in sizes)
        with fake, _Answers(labels(config)), mock.patch.multiple(random, rows=_rows, keep=_keep), limits:
            with mock.patch.object(Block, "forward", _pass_by), whole:
                _step(config, layout, optimizers, memory)

            for block in (m for m in _modules(layout) if isinstance(m, Block)):
                block.register_forward_pre_hook(lambda *_: progress())
            recorder = OpRecorder(comm, memory)
            with recorder if record else nullcontext(), memory, memory.resizing(), comm:
                take_stock(memory, layout, optimizers, fake)
                _step(config, layout, optimizers, memory)
    count = sum(p.numel() for p in layout.parameters.values())
    return Trace(rank, count, memory.timeline(), memory.flops, comm.messages, recorder.operations)


def passes(config: Config, processes: int, rank: int) -> int:
    """Return how many times blocks of a rank go forward in a step."""
    layout = config.layout
    pp = rank // (processes // layout.pp)
    again, shard = 2 if layout.recompute == "block" else 1, RankShard(config, pp)
    return again * shard.micro_batches * shard.blocks


def take_stock(
    memory: MemoryProfiler, layout: Layout, optimizers: list[torch.optim.Optimizer], fake: FakeTensorMode | None = None
) -> None:
    """Write down what is there before a step, fake tensors or real ones, and say of what kind it and gradients are."""
    kind, mode = (FakeTensor, fake) if fake else (Tensor, None)
    alive = [o for o in gc.get_objects() if type(o) is kind and getattr(o, "fake_mode", None) is mode]
    memory.label("temporary", alive)
    memory.label("parameters", layout.parameters.values())
    for optimizer in optimizers:
        memory.label("optimizer", (t for state in optimizer.state.values() for t in state.values()))
    for parameter in [*layout.parameters.values(), *_gathered(layout)]:
        parameter.register_hook(lambda grad: memory.label("gradients", [grad]))  # type: ignore[no-untyped-call]


def _step(config: Config, layout: Layout, optimizers: list[torch.optim.Optimizer], memory: MemoryProfiler) -> None:
    """Run the trainer's step on a batch of zeros, in which every loss counts one position."""
    losses = spec_of(config.model).losses
    batch = layout.local_batch(_batch(config))
    counts = layout.global_counts(losses, {name: torch.ones((), dtype=torch.int64) for name in losses})
    scale = LossScale(config.precision).value
    forward_backward(layout, layout.micro_batches(batch), counts, scale)

    memory.label("gradients", (p.grad for p in layout.parameters.values()))
    with blamed("optim.name", config.optim.name, "step()"):
        for optimizer in optimizers:
            optimizer.step()
    layout.parameters.zero_grad()


def _modules(layout: Layout) -> Iterator[nn.Module]:
    return (module for stage in layout.stages for module in stage.modules())


def _gathered(layout: Layout) -> Iterator[Tensor]:
    """Return the whole parameters that `fully_shard` puts together for use."""
    for module in _modules(layout):
        if isinstance(module, FSDPModule) and (group := module._get_fsdp_state()._fsdp_param_group):
            yield from (parameter.unsharded_param for parameter in group.fsdp_params)


def _rows(index: Tensor, key: Tensor, site: Tensor) -> Tensor:
    return index.to(torch.int32)


def _keep(rows: Tensor, columns: int, drop: float) -> Tensor:
    return rows.new_empty((*rows.shape, columns), dtype=torch.bool)


def _pass_by(block: Block, x: Tensor, context: Context) -> Tensor:
    return x.clone()


def _batch(config: Config) -> Batch:
    """Return a replica's sequences of zeros, with all that a model may ask of them; those of tasks may be shorter."""
    rows, length = config.train.batch // config.layout.dp, config.data.sequence
    tokens, key = torch.zeros(rows, length, dtype=torch.int64), torch.zeros(rows, dtype=torch.int32)
    batch, spec = Batch(tokens, tokens.clone(), key, tokens.clone()), spec_of(config.model)
    if spec.causal:
        return batch
    document, related = torch.zeros(rows, length, dtype=torch.int32), torch.zeros(rows, dtype=torch.int64)
    head = head_of(spec)
    value = torch.zeros(rows) if head and head.asks == "value" else None
    return replace(batch, segment=tokens.clone(), document=document, related=related, value=value)


class _Answers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers what only the values of tensors could tell: how many positions a mask picks, and of any number that it
    is 1 (the stages of a pipeline ask each other whether they know their shapes).
    """

    def __init__(self, picked: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.picked = picked

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _aten._local_scalar_dense.default:
            return 1
        if func is _aten.index.Tensor and args[1][0] is not None and args[1][0].dtype == torch.bool:
            mask: Tensor = args[1][0]
            positions = mask.new_empty(self.picked, dtype=torch.int64)
            args = (args[0], [positions] * mask.ndim, *args[2:])
        return func(*args, **(kwargs or {}))


@contextmanager
def _pretending(processes: int, rank: int) -> Iterator[None]:
    """Enter a process group whose other ranks are not there."""
    if processes == 1:
        yield
        return
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=processes)
    try:
        yield
    finally:
        dist.destroy_process_group()
