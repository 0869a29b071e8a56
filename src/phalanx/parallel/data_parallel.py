"""Data parallelism: gradients are summed over replicas while backward is still at work.

Replicated parameters: gradients are gathered in buckets, in the order in which backward makes them, and a bucket is
sent off as soon as its last gradient is complete. Sharded parameters (ZeRO, Rajbhandari et al., arXiv 1910.02054) are
left to torch's `fully_shard`, which is imported where it is wanted: with it comes a second of torch's compiler. With
gradient accumulation either communicates in the last micro-batch only.
"""

from collections.abc import Iterable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from phalanx.nn.block import Block
from phalanx.parallel.mesh import Axis, Mesh

BUCKET = 1 << 22  # elements sent at once


class Buckets:
    """Sums gradients over `axis` as backward completes them.

    Buckets leave in one order on every rank, whatever the order in which gradients come: a bucket waits for those
    before it, and what no gradient has reached by the end is sent as zeros.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], axis: Axis) -> None:
        self.axis = axis
        self.buckets: list[list[nn.Parameter]] = [[]]
        for parameter in reversed(list(parameters)):
            if sum(p.numel() for p in self.buckets[-1]) >= BUCKET:
                self.buckets.append([])
            self.buckets[-1].append(parameter)

        self.begin(0)
        if axis.size > 1:
            for number, bucket in enumerate(self.buckets):
                for parameter in bucket:
                    hook = partial(self._arrived, number)
                    parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    def begin(self, micro_batches: int) -> None:
        """Expect the gradients of so many backward passes."""
        self.missing = [len(bucket) * micro_batches for bucket in self.buckets]
        self.sent: list[tuple[Tensor, dist.Work]] = []

    def _arrived(self, number: int, _: Tensor) -> None:
        self.missing[number] -= 1
        while len(self.sent) < len(self.buckets) and self.missing[len(self.sent)] == 0:
            self._send()

    def _send(self) -> None:
        bucket = self.buckets[len(self.sent)]

        # one message for many tensors: a message each would spend its time on starting
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        flat = torch.cat([grad.flatten() for grad in grads])
        for parameter in bucket:
            parameter.grad = None  # held once, not twice

        # summed, not averaged: losses are divided by global counts already; beside backward, which goes on meanwhile
        work = dist.all_reduce(flat, group=self.axis.group, async_op=True)
        assert work is not None
        self.sent.append((flat, work))

    def synchronize(self) -> None:
        """Send the buckets that are left, and wait until every gradient is the sum over the axis."""
        if self.axis.size == 1:
            return

        # what no gradient has reached leaves too: another rank may have one, and all must send alike
        while len(self.sent) < len(self.buckets):
            self._send()

        for bucket, (flat, work) in zip(self.buckets, self.sent, strict=True):
            work.wait()
            for parameter, grad in zip(bucket, torch.split(flat, [p.numel() for p in bucket]), strict=True):
                parameter.grad = grad.view_as(parameter)


def allocate(root: nn.Module, mesh: Mesh, device: torch.device, zero3: bool) -> None:
    """Give memory on a device to a model that has none, or to this rank's shards of it."""
    if mesh.fsdp is not None:
        shard_fully(root, mesh, zero3)
        root.to_empty(device=device)  # the root's own: it sees to the padding of its shards
    else:  # as to_empty does, which imports sympy for it
        root._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=device))  # type: ignore[no-untyped-call]


def shard_fully(model: nn.Module, mesh: Mesh, zero3: bool) -> None:
    """Shard the parameters of every block, and of the rest together; zero3 frees whole weights after their forward."""
    from torch.distributed.fsdp import FSDPModule, fully_shard

    assert mesh.fsdp is not None
    for block in (module for module in model.modules() if isinstance(module, Block)):
        fully_shard(block, mesh=mesh.fsdp, reshard_after_forward=zero3)
    fully_shard(model, mesh=mesh.fsdp, reshard_after_forward=False)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # losses are divided by global counts already
            module.set_force_sum_reduction_for_comms(True)


def set_accumulation(model: nn.Module, last: bool, reshard: bool) -> None:
    """Prepare a backward pass of a sharded model: gradients are reduced in the `last`, weights freed if `reshard`."""
    from torch.distributed.fsdp import FSDPModule

    assert isinstance(model, FSDPModule)
    model.set_requires_gradient_sync(last)
    model.set_reshard_after_backward(reshard)


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a parameter or gradient that `shard_fully` has split."""
    from torch.distributed.tensor import DTensor

    assert isinstance(tensor, DTensor)
    return tensor.to_local()
