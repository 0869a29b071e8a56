"""Losses as sums over the labelled positions; whoever knows the global count divides.

The logits of a language model are its largest tensor (2,048 tokens × 50,304 words × 4 bytes = 412 MB, and as much again
for their gradient). `vocabulary_loss` never holds them: it multiplies a few rows at a time, takes the loss and at once
the gradients of the hidden states and of the weight. No product is done twice; backward only multiplies by a scalar.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_LOGITS = 1 << 25  # logits held at once

Logits = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of -log p(label) in fp32 over labels >= 0. logits [n, classes], labels [n] -> []"""
    return F.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="sum")


class _VocabularyLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, gemm: Logits) -> Tensor:
        weight = weight.detach().requires_grad_(ctx.needs_input_grad[1])
        bias = None if bias is None else bias.detach().requires_grad_(ctx.needs_input_grad[2])
        total = hidden.new_zeros((), dtype=torch.float32)
        hidden_grad = torch.empty_like(hidden)
        for part in _chunks(hidden.shape[0], weight.shape[0]):
            x = hidden[part].detach().requires_grad_()
            with torch.enable_grad():
                loss = cross_entropy(gemm(x, weight, bias), labels[part])
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            assert x.grad is not None
            hidden_grad[part] = x.grad
        ctx.grads = (hidden_grad, weight.grad, None if bias is None else bias.grad)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kept, ctx.grads = ctx.grads, None
        return (*(None if grad is None else grad.mul_(grads[0]) for grad in kept), None, None)


def _chunks(rows: int, columns: int) -> list[slice]:
    height = max(1, _LOGITS // columns)
    return [slice(start, min(start + height, rows)) for start in range(0, rows, height)]


def vocabulary_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, gemm: Logits) -> Tensor:
    """Sum of the loss of labels [n] >= 0 given hidden [n, hidden] and a head's weight [vocab, hidden], bias [vocab]."""
    loss: Tensor = _VocabularyLoss.apply(hidden, weight, bias, labels, gemm)  # type: ignore[no-untyped-call]
    return loss


def vocabulary_score(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, gemm: Logits
) -> tuple[Tensor, Tensor]:
    """`vocabulary_loss` without gradients, and how many labels >= 0 have the largest logit: float32 [], int64 []."""
    total = hidden.new_zeros((), dtype=torch.float32)
    correct = labels.new_zeros(())
    for part in _chunks(hidden.shape[0], weight.shape[0]):
        logits = gemm(hidden[part], weight, bias)
        total += cross_entropy(logits, labels[part])
        correct += (logits.argmax(-1) == labels[part]).sum()
    return total, correct
