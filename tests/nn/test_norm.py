"""The norms: gradients by hand are those of the formula, and what backward keeps is one copy of the stream."""

import torch
from torch import Tensor
from torch.nn import functional as F

from phalanx.nn.norm import Norm
from phalanx.spec import leaves


def rms() -> Norm:
    norm = Norm(leaves.Norm(leaves.Dim("embed", 6), 1e-3, "rms"))
    torch.nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    return norm


def test_an_rms_norm_is_that_of_torch() -> None:
    norm, x = rms(), torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(2), requires_grad=True)
    y = norm(x)
    expected = F.rms_norm(x, (6,), norm.weight, 1e-3)
    torch.testing.assert_close(y, expected)
    slope = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
    ours, theirs = (torch.autograd.grad(out, (x, norm.weight), slope) for out in (y, expected))
    torch.testing.assert_close(ours, theirs)


def test_what_an_rms_norm_keeps() -> None:
    kept = list[Tensor]()
    x = torch.randn(7, 6, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        rms()(x)
    assert sorted(tuple(tensor.shape) for tensor in kept) == [(6,), (7, 1), (7, 6)]
