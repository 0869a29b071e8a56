"""The parameters of a run as its optimizer sees them: what this rank holds, and questions about the wholes.

Norms, and matrices that must be whole (Muon's), are those of the model, not of a rank's part; one collective answers
for all of them.
"""

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.linalg import vector_norm

from phalanx.parallel.mesh import ALONE, Axis
from phalanx.spec.leaves import Parameter
from phalanx.spec.partition import Box


class Local(NamedTuple):
    """The part of a parameter that this rank holds, and its place in the whole."""

    tensor: nn.Parameter  # what the optimizer moves
    source: nn.Parameter  # the model's own; `tensor` itself unless `fully_shard` wraps it
    parameter: Parameter  # of the model's description: its role, and the shape of the whole
    boxes: tuple[Box, ...]  # of the whole, which `tensor` consists of; none where it has no elements
    twin: bool = False  # a second copy: of the first stage's word embedding, in the last stage
    replicas: int = 1  # ranks along the data axis that hold the same boxes


class Parameters(Mapping[str, nn.Parameter]):
    """The tensors that this rank's optimizer moves, by name. `within` are the ranks among which a stage's parameters
    are split; `dtype` is the precision of the run's products, for an optimizer that has products of its own.
    """

    def __init__(self, locals: Mapping[str, Local], within: Axis = ALONE, dtype: str = "fp32") -> None:
        self.locals, self.within, self.dtype = dict(locals), within, dtype

    def __getitem__(self, name: str) -> nn.Parameter:
        return self.locals[name].tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.locals)

    def __len__(self) -> int:
        return len(self.locals)

    def description(self, name: str) -> Parameter:
        """Return what the model's description says of a parameter: its role and its dimensions, as a whole."""
        return self.locals[name].parameter

    def norms(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the 2-norm of the whole of each tensor that lies as the parameter of its name: float32 [] by name."""
        squares = torch.stack([self._square(name, tensor) for name, tensor in tensors.items()])
        # squares add up over the parts, norms do not; one message for the norms of all tensors
        if self.within.size > 1:
            dist.all_reduce(squares, group=self.within.group)
        return dict(zip(tensors, squares.sqrt().unbind(), strict=True))

    def whole(self, name: str, tensor: Tensor) -> Tensor:
        """Return the whole of a tensor that lies as the parameter `name`, on every rank of `within`."""
        local = self.locals[name]
        if self.within.size == 1:
            return tensor
        out = tensor.new_zeros(local.parameter.shape)
        for box in local.boxes:
            out[box.global_slices] = tensor[box.local_slices] / box.alike
        # every rank adds its boxes to zeros; copies of a box were divided by their number
        dist.all_reduce(out, group=self.within.group)
        return out

    def part(self, name: str, whole: Tensor) -> Tensor:
        """Return this rank's part of a whole that lies as the parameter `name`: a copy, but for one rank alone."""
        local = self.locals[name]
        if self.within.size == 1:
            return whole
        out = whole.new_empty(local.tensor.shape)
        for box in local.boxes:
            out[box.local_slices] = whole[box.global_slices]
        return out

    def square(self) -> Tensor:
        """Return this rank's term of the squared norm of all gradients, float32 []: the world's sum is the whole's."""
        terms = [  # one box is all that is held: no view of it is made in every step
            self._square(name, local.tensor.grad) / local.replicas if len(local.boxes) != 1
            else vector_norm(local.tensor.grad).square() / (local.boxes[0].alike * local.replicas)
            for name, local in self.locals.items() if local.tensor.grad is not None and not local.twin
        ]  # fmt: skip
        device = next(iter(self.values())).device
        return torch.stack(terms).sum() if terms else torch.zeros((), device=device)

    def _square(self, name: str, tensor: Tensor) -> Tensor:
        """Return this rank's term of the squared norm of a whole, float32 []: of each box, divided among those that
        hold it.
        """
        boxes = self.locals[name].boxes
        terms = [vector_norm(tensor[box.local_slices]).square() / box.alike for box in boxes]
        return reduce(torch.add, terms) if terms else tensor.new_zeros(())

    @torch.no_grad()
    def add_partial_gradients(self, axis: Axis) -> None:
        """Add up the gradients of boxes that just the ranks of `axis` hold, and of which each has some terms only."""
        boxes = [(local.tensor.grad, box) for local in self.locals.values() for box in local.boxes if box.partial]
        grads = [grad[box.local_slices] for grad, box in boxes if grad is not None and box.alike == axis.size]

        if grads:
            flat = torch.cat([grad.flatten() for grad in grads])
            dist.all_reduce(flat, group=axis.group)  # all get the same bits: copies of a key head never part
            for grad, summed in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
                grad.copy_(summed.view_as(grad))

    @torch.no_grad()
    def scale_gradients(self, factor: Tensor) -> None:
        """Multiply every gradient by `factor` []."""
        torch._foreach_mul_([p.grad for p in self.values() if p.grad is not None], factor)

    def places(self) -> dict[str, tuple[tuple[int, ...], tuple[Box, ...]]]:
        """Return the shape of the whole and the boxes of the part, by name."""
        return {name: (local.parameter.shape, local.boxes) for name, local in self.locals.items()}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for local in self.locals.values():
            local.tensor.grad = local.source.grad = None
