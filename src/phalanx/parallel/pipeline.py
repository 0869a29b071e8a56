"""Pipeline parallelism: stages of the model, run by the schedules of torch.distributed.pipelining.

Stage 0 has the embeddings, the last one the final norm, the heads and a copy of the word embedding, which the head
multiplies by. Between stages the residual stream travels; everything else of a micro-batch (coordinates, labels) every
rank has already. Each schedule lets a stage see the micro-batches in their order.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from phalanx.config import LayoutConfig
from phalanx.nn import slots
from phalanx.nn.batch import Batch
from phalanx.nn.model import Model
from phalanx.nn.transformer import Transformer
from phalanx.parallel import placement
from phalanx.parallel.mesh import Axis

Sums = dict[str, Tensor]
Objective = Callable[[Sums], Tensor]


class Stage(nn.Module):
    """A stage as the schedules want it: it takes a micro-batch's residual stream, and gives the stream or the loss."""

    def __init__(self, model: Model, first: bool, last: bool) -> None:
        super().__init__()
        self.model, self.first, self.last = model, first, last
        self.coming: Iterator[Batch] = iter(())
        self.objective: Objective = lambda sums: next(iter(sums.values()))
        self.sums: list[Sums] = []

    def forward(self, x: Tensor, batch: Batch | None = None) -> Any:
        """Compute `batch`, or the next micro-batch of `coming`: x is the stream [rows, seq, hidden], or anything in
        stage 0. The last stage returns the sums of a given batch, and the objective of the next one.
        """
        scheduled = batch is None  # a schedule gives tensors alone: batches and sums go by attributes
        batch = next(self.coming) if batch is None else batch
        out = self.model(batch) if self.first else self.model(batch, x)
        if not (self.last and scheduled):
            return out

        self.sums.append({name: value.detach() for name, value in out.items()})
        return self.objective(out)


class Pipeline:
    """The stages of this rank and the schedule that drives them."""

    def __init__(self, stages: Sequence[Stage], layout: LayoutConfig, axis: Axis, stream: Sequence[int],
                 device: torch.device) -> None:  # fmt: skip
        """`stream` is the shape of what travels between stages: [rows, seq, hidden] of a micro-batch."""
        self.stages, self.layout, self.axis, self.stream, self.device = stages, layout, axis, tuple(stream), device
        self.schedules: dict[int, Any] = {}  # by the number of micro-batches

    def run(self, batches: Sequence[Batch], objective: Objective) -> list[Sums]:
        """Compute gradients of the objective of every micro-batch; return each one's sums, on the last stage alone."""
        # torch's schedules call a stage with chunks of tensors and nothing else: its batches are laid out for it here
        for stage in self.stages:
            stage.coming, stage.objective, stage.sums = iter(batches), objective, []
        if len(batches) not in self.schedules:
            self.schedules[len(batches)] = self._make(len(batches))

        nothing = torch.zeros(len(batches), device=self.device)  # a schedule wants something to split
        args = (nothing,) if any(stage.first for stage in self.stages) else ()
        last = any(stage.last for stage in self.stages)
        self.schedules[len(batches)].step(
            *args, target=nothing if last else None, losses=[] if last else None, return_outputs=False
        )

        return [sums for stage in self.stages for sums in stage.sums]

    def forward(self, batch: Batch) -> Sums:
        """Return the sums of one batch, computed without gradients, on the last stage; nothing elsewhere."""
        count, group = placement.stage_count(self.layout), self.axis.group
        local = dict(zip(placement.stage_numbers(self.layout, self.axis.rank), self.stages, strict=True))
        stream, sums = torch.empty(self.stream, device=self.device), Sums()

        # all ranks go through the stages in order, so a send always meets its receive
        for number in range(count):
            source = placement.rank_of_stage(number, self.layout)
            target = placement.rank_of_stage(number + 1, self.layout)
            if number in local:
                stage = local[number]
                out = stage(stream, batch)  # not its model: `fully_shard` gathers weights when the stage is called
                if stage.last:
                    sums = out
                elif target == source:
                    stream = out
                else:
                    dist.send(out.contiguous(), group=group, group_dst=target)
            elif number + 1 in local:
                dist.recv(stream, group=group, group_src=source)
        return sums

    def _make(self, micro_batches: int) -> Any:
        from torch.distributed import pipelining  # takes 1.5 s, and only pipelines need it

        count = placement.stage_count(self.layout)
        nothing = torch.zeros(1, device=self.device)
        stream = torch.empty(self.stream, device=self.device, requires_grad=True)
        wrapped: list[Any] = []
        for index, stage in zip(placement.stage_numbers(self.layout, self.axis.rank), self.stages, strict=True):
            wrapped.append(pipelining.PipelineStage(
                stage, index, count, self.device, group=self.axis.group,
                input_args=nothing if stage.first else stream,
                output_args=torch.zeros((), device=self.device, requires_grad=True) if stage.last else stream,
            ))  # fmt: skip

        options: dict[str, Any] = {"loss_fn": lambda output, _: output, "scale_grads": False}
        if self.layout.schedule == "zbv":
            return pipelining.ScheduleZBVZeroBubble(wrapped, micro_batches, **options)
        if self.layout.chunks > 1:
            return pipelining.ScheduleInterleaved1F1B(wrapped, micro_batches, **options)
        return pipelining.Schedule1F1B(wrapped[0], micro_batches, **options)


def tie(parameter: nn.Parameter | None, axis: Axis) -> None:
    """Sum the gradients of the word embedding's two copies, on the first rank and the last of the pp axis."""
    if axis.rank not in (0, axis.size - 1) or parameter is None:
        return
    grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    received = torch.empty_like(grad)
    peer = axis.size - 1 - axis.rank

    # a sum of two by exchange: a group of just these two ranks would have to be made by all
    exchange = [
        dist.P2POp(op, t, group=axis.group, group_peer=peer) for op, t in ((dist.isend, grad), (dist.irecv, received))
    ]
    # one end sends first where the other receives first: two that both sent first could wait for each other
    for work in dist.batch_isend_irecv(exchange if axis.rank == 0 else exchange[::-1]):
        work.wait()

    # first rank's + last rank's on both: the sum has the same bits, and the copies never part
    parameter.grad = grad + received if axis.rank == 0 else received + grad


def unsplit(stage: Stage) -> None:
    """Let a stage before the last pass on its hidden states split as its residual stream is, instead of gathered."""
    for module in stage.modules():
        if isinstance(module, Transformer) and not stage.last:
            module.leave = slots.same
