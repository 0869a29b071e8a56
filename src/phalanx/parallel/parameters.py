"""The parameters of a run as its optimizer sees them: what this rank holds, and questions about the wholes.

Norms, and matrices that must be whole (Muon's), are those of the model, not of a rank's part; one collective answers
for all of them.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.linalg import vector_norm

from phalanx.parallel.mesh import ALONE, Axis


class Local(NamedTuple):
    """What this rank holds of a parameter, and its place in the whole."""

    tensor: nn.Parameter  # what the optimizer moves
    source: nn.Parameter  # the model's own; `tensor` itself unless `fully_shard` wraps it
    shape: tuple[int, ...]  # of the whole
    offset: tuple[int, ...]
    partial: bool = False  # its gradient lacks terms of the tp axis until the step ends
    twin: bool = False  # a second copy: of the first stage's word embedding, in the last stage
    alike: int = 1  # ranks of `within` that hold the same elements
    copies: int = 1  # ranks of the world that do, twins left out


class Parameters(Mapping[str, nn.Parameter]):
    """The tensors by name. `within` are the ranks among which a stage's parameters are split; `dtype` is the precision
    of the run's products, for an optimizer that has products of its own."""

    def __init__(self, locals: Mapping[str, Local], within: Axis = ALONE, dtype: str = "fp32") -> None:
        self.locals, self.within, self.dtype = dict(locals), within, dtype

    @classmethod
    def of(cls, model: nn.Module) -> Self:
        """Those of a model that one process holds whole."""
        named = model.named_parameters()
        return cls({name: Local(p, p, tuple(p.shape), (0,) * p.ndim) for name, p in named if p.requires_grad})

    def __getitem__(self, name: str) -> nn.Parameter:
        return self.locals[name].tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.locals)

    def __len__(self) -> int:
        return len(self.locals)

    def norms(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The 2-norm of the whole of each tensor that lies as the parameter of its name: float32 [] by name."""
        squares = torch.stack([vector_norm(t).square() / self.locals[name].alike for name, t in tensors.items()])
        if self.within.size > 1:
            dist.all_reduce(squares, group=self.within.group)
        return dict(zip(tensors, squares.sqrt().unbind(), strict=True))

    def whole(self, name: str, tensor: Tensor) -> Tensor:
        """The whole of a tensor that lies as the parameter `name`."""
        local = self.locals[name]
        if self.within.size == 1:
            return tensor
        out = tensor.new_zeros(local.shape)
        self.part(name, out).copy_(tensor / local.alike)
        dist.all_reduce(out, group=self.within.group)
        return out

    def part(self, name: str, whole: Tensor) -> Tensor:
        """This rank's part of a whole that lies as the parameter `name`: a view."""
        local = self.locals[name]
        for dim, (start, size) in enumerate(zip(local.offset, local.tensor.shape, strict=True)):
            whole = whole.narrow(dim, min(start, whole.shape[dim]), size)
        return whole

    def square(self) -> Tensor:
        """This rank's term of the squared norm of all gradients: their sum over the world is the whole's. float32 []"""
        terms = [
            vector_norm(local.tensor.grad).square() / local.copies
            for local in self.locals.values()
            if local.tensor.grad is not None and not local.twin
        ]
        device = next(iter(self.values())).device
        return torch.stack(terms).sum() if terms else torch.zeros((), device=device)

    @torch.no_grad()
    def scale_gradients(self, factor: Tensor) -> None:
        """Multiply every gradient by `factor` []."""
        torch._foreach_mul_([p.grad for p in self.values() if p.grad is not None], factor)

    def places(self) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Shape of the whole and offset of the part, by name."""
        return {name: (local.shape, local.offset) for name, local in self.locals.items()}

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for local in self.locals.values():
            local.tensor.grad = local.source.grad = None
