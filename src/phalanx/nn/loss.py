"""Losses as sums over the labelled positions; whoever knows the global count divides.

The logits of a language model are its largest tensor (2,048 tokens × 50,304 words × 4 bytes = 412 MB, and as much again
for their gradient). `vocabulary_loss` never holds them: it multiplies a few rows at a time, takes the loss and at once
the gradients of the hidden states and of the weight. No product is done twice; backward only multiplies by a scalar.

Where the vocabulary is split, each part takes the softmax of its own columns, and two short vectors put the parts
together (Shoeybi et al., arXiv 1909.08053, section 3): the largest log-mass, and the sums of masses and labels' logits.

The z-loss (PaLM, arXiv 2204.02311, section 5) adds z × (the log of the softmax's sum)² for each label, which keeps that
log near zero. It is known here already, so the term and its gradient cost a few operations for each row of logits.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from phalanx.nn import logit_chunks, slots

Logits = Callable[[Tensor, Tensor, Tensor | None], Tensor]

# What Tensor.backward calls. That imports sympy first, to compare the shapes of a tensor and the gradient it is given.
_ENGINE: Any = torch.autograd.Variable._execution_engine


class Columns(NamedTuple):
    """The logits that a rank computes, and how others' are added: all of them, until a layout splits the vocabulary;
    and the coefficient `z` of the z-loss.
    """

    start: int = 0
    total: Callable[[Tensor], Tensor] = slots.same  # sum over the parts
    largest: Callable[[Tensor], Tensor] = slots.same  # maximum over the parts
    fused: Callable[..., Any] | None = None  # in place of `_scored`, where no column is missing: see `compiled`
    z: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether this rank has all columns."""
        return self.total is slots.same


WHOLE = Columns()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of -log p(label) in fp32 over labels >= 0: float32 [] of logits [n, classes] and labels [n]."""
    return F.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="sum")


class _Scored(NamedTuple):
    """The losses -log p of a few rows, and what their gradient and whether they are right are computed from."""

    loss: Tensor  # [n], 0 where there is no label
    inside: Tensor  # [n, columns]: log p within this rank's columns
    share: Tensor  # [n]: log of these columns' part of the whole probability
    place: Tensor  # [n, 1]: the label's column, 0 where another rank has it
    held: Tensor  # [n]: whether this rank has it
    picked: Tensor  # [n]: the label's logit above the largest mass
    mass: Tensor | None  # [n]: log of the softmax's sum, over the columns of all ranks, where there is a z-loss

    def grad(self, labels: Tensor, z: float) -> Tensor:
        """Return the gradient of the summed losses, the z-loss among them, by this rank's logits, float32 [n, columns];
        overwrites `inside`.
        """
        weight = self.share.exp() * (labels >= 0)
        if self.mass is not None:
            weight *= 1 + 2 * z * self.mass  # the derivative of the mass by a logit is its p
        p = self.inside.exp_().mul_(weight[:, None])
        return p.scatter_add_(1, self.place, -self.held.to(p.dtype)[:, None])


def _scored(logits: Tensor, labels: Tensor, columns: Columns) -> _Scored:
    logits = logits.float()
    inside = logits.log_softmax(-1)

    mass = logits[:, 0] - inside[:, 0]  # the log-sum-exp of a row
    above = mass - columns.largest(mass)

    own = labels - columns.start
    held = (own >= 0) & (own < logits.shape[1])
    place = torch.where(held, own, 0)[:, None]
    picked = torch.where(held, inside.gather(1, place)[:, 0] + above, 0)

    # one all-reduce for both sums
    masses, picked = columns.total(torch.stack([above.exp(), picked]))
    losses = torch.where(labels >= 0, masses.log() - picked, 0)
    whole = mass - above + masses.log() if columns.z else None
    return _Scored(losses, inside, above - masses.log(), place, held, picked, whole)


class _FusedScored(NamedTuple):
    """The result of `fused_cross_entropy`, with the interface of `_Scored`."""

    loss: Tensor
    mass: Tensor
    gradient: Tensor

    def grad(self, *_: object) -> Tensor:
        """Return the gradient of the summed losses by the logits, [n, columns], as the forward pass computed it."""
        return self.gradient


def fused_cross_entropy(logits: Tensor, labels: Tensor, z: float | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses [n] and the logs of the softmax's sums [n], float32, and the gradient of the sum of the losses
    and of z-losses by the logits [n, vocab], in the type of these. For a compiler, which reads the logits twice and
    writes nothing else of their size but the gradient.
    """
    numbers, known = logits.float(), labels >= 0
    mass = numbers.logsumexp(-1)
    picked = numbers.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    own = torch.arange(logits.shape[1], device=logits.device) == labels[:, None]
    p = (numbers - mass[:, None]).exp()
    if z is not None:
        p = p * (1 + 2 * z * mass)[:, None]
    grad = (p - own.float()) * known[:, None]
    return torch.where(known, mass - picked, 0), mass, grad.to(logits.dtype)


def compiled(z: float = 0.0) -> Columns:
    """Return all columns, with what lies between their products compiled into one or two kernels."""
    fused = torch.compile(partial(fused_cross_entropy, z=z) if z else fused_cross_entropy, dynamic=True)
    return Columns(fused=lambda logits, labels, _: _FusedScored(*fused(logits, labels)), z=z)


class _Given(torch.autograd.Function):
    """A value whose gradient by `x` is known already. One node for each `x`, so that a pipeline may ask for the
    gradients of activations and of weights at different times.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, grad: Tensor) -> Tensor:
        ctx.grad = grad
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad, ctx.grad = ctx.grad, None
        return grad.mul_(grads[0]), None, None


def _chunks(hidden: Tensor, weight: Tensor, fused: bool = False) -> list[slice]:
    part = 4 if fused else 1  # as much less is held
    rows, height = hidden.shape[0], logit_chunks.rows(hidden.device.type, weight.shape[0], part)
    return [slice(start, min(start + height, rows)) for start in range(0, rows, height)]


def vocabulary_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, gemm: Logits, columns: Columns = WHOLE
) -> tuple[Tensor, Tensor | None]:
    """Return the sum of the loss of labels [n] >= 0, and that of their z-losses if there are any, float32 [] each,
    given hidden [n, hidden] and this rank's rows of a head's weight [vocab, hidden] and bias [vocab].

    Both have their gradients through the first: it is to be divided by what the second is divided by.
    """
    leaves = [None if p is None else p.detach().requires_grad_(p.requires_grad) for p in (hidden, weight, bias)]
    inner, weight_, bias_ = leaves
    assert inner is not None and weight_ is not None

    total = hidden.new_zeros((), dtype=torch.float32)
    z_total = torch.zeros_like(total) if columns.z else None
    hidden_grad = torch.empty_like(inner)

    for part in _chunks(hidden, weight, columns.fused is not None):
        x = inner[part].detach().requires_grad_()
        logits = gemm(x, weight_, bias_)
        scored = (columns.fused or _scored)(logits.detach(), labels[part], columns)
        # accumulates into the leaves' .grad while the logits are in the cache; they are freed with the chunk
        grad = scored.grad(labels[part], columns.z).to(logits.dtype)
        _ENGINE.run_backward((logits,), (grad,), False, False, (), True, True)
        total += scored.loss.sum().detach()
        if z_total is not None and scored.mass is not None:
            z_total += columns.z * torch.where(labels[part] >= 0, scored.mass.detach().square(), 0).sum()
        assert x.grad is not None
        hidden_grad[part] = x.grad
        del logits, scored, grad  # or they would stay beside the next chunk's

    loss: Tensor = _Given.apply(hidden, total, hidden_grad)  # type: ignore[no-untyped-call]
    for parameter, leaf in (weight, weight_), (bias, bias_):
        if leaf is not None and leaf.grad is not None:
            loss = loss + _Given.apply(parameter, torch.zeros_like(total), leaf.grad)  # type: ignore[no-untyped-call]
    return loss, z_total


def vocabulary_score(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, gemm: Logits, columns: Columns = WHOLE
) -> tuple[Tensor, Tensor]:
    """Return the terms of `vocabulary_loss` without gradients, float32 [n], and which labels >= 0 have the largest
    logit, bool [n].
    """
    losses = [hidden.new_zeros(0, dtype=torch.float32)]
    right = [labels.new_zeros(0, dtype=torch.bool)]
    for part in _chunks(hidden, weight):
        scored = _scored(gemm(hidden[part], weight, bias), labels[part], columns)
        top = columns.largest(scored.inside.amax(-1) + scored.share)
        losses.append(scored.loss)
        # ranks compute the label's log p and the largest one by different sums: they differ by rounding, 1e-6
        right.append((labels[part] >= 0) & (-scored.loss >= top - 1e-6))
    return torch.cat(losses), torch.cat(right)
