"""Products in 8 bits: rounded as the formats say, scaled by the largest number, and left alone where kernels cannot."""

import pytest
import torch
from torch import Tensor

from phalanx.models.build import build
from phalanx.models.family import configured
from phalanx.nn import slots
from phalanx.nn.block import Block
from phalanx.nn.linear import Linear
from phalanx.precision import fp8, gemm

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [fp8.FORWARD, fp8.BACKWARD])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_the_largest_number_is_the_format_s_largest(dtype: torch.dtype, size: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 64) * size
    small, scale = fp8.quantised(x, dtype)
    assert small.dtype == dtype and small.float().abs().max() == torch.finfo(dtype).max
    digits = torch.finfo(dtype).eps / 2
    large = x.abs() > x.abs().max() * 2.0**-5  # the rest lies among e4m3's subnormals
    torch.testing.assert_close((small.float() * scale)[large], x[large], rtol=digits * 1.001, atol=0)


def test_nothing_and_what_is_not_finite_stay_so() -> None:
    small, scale = fp8.quantised(torch.zeros(4, 4), fp8.FORWARD)
    assert small.float().eq(0).all() and scale.isfinite()
    small, scale = fp8.quantised(torch.tensor([1.0, float("nan")]), fp8.BACKWARD)
    assert (small.float() * scale).isnan().any(), "the guard must see it"


@pytest.mark.numerics
def test_products_are_those_of_the_rounded_operands() -> None:
    torch.manual_seed(0)
    x, weight, bias, grad = (torch.randn(shape) for shape in ((2, 16, 32), (48, 32), (48,), (2, 16, 48)))
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    y = fp8.Scaled(slots.gemm)(*leaves)
    y.backward(grad.bfloat16())

    def rounded(t: Tensor, dtype: torch.dtype) -> Tensor:
        small, scale = fp8.quantised(t, dtype)
        return small.float() * scale

    xs, ws, gs = rounded(x, fp8.FORWARD), rounded(weight, fp8.FORWARD), rounded(grad.bfloat16().float(), fp8.BACKWARD)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), xs @ ws.t() + bias, rtol=2**-7, atol=2**-5)
    dx, dw, db = (leaf.grad for leaf in leaves)
    assert dx is not None and dw is not None and db is not None
    torch.testing.assert_close(dx, gs @ ws, rtol=2**-7, atol=2**-5)
    torch.testing.assert_close(dw, torch.einsum("bso,bsi->oi", gs, xs), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(db, grad.bfloat16().float().sum((0, 1)))


def test_sizes_that_kernels_do_not_take_are_multiplied_wider() -> None:
    product = fp8.Scaled(slots.gemm)
    x, weight = torch.randn(15, 32), torch.randn(16, 32)
    assert product(x, weight).equal(slots.gemm(x, weight))
    assert product(torch.randn(16, 32), weight).dtype == torch.bfloat16


def test_it_is_for_the_blocks() -> None:
    model = build(configured(layers=1, hidden=32, heads=2, positions=16, vocab=64), 0, CPU)
    gemm.fill(model, "fp8", CPU)
    blocks = [m for block in model.modules() if isinstance(block, Block) for m in block.modules()]
    inside = [m for m in blocks if isinstance(m, Linear)]
    assert len(inside) == 4 and all(isinstance(m.gemm, fp8.Scaled) for m in inside)
    assert sum(isinstance(getattr(m, "gemm", None), fp8.Scaled) for m in model.modules()) == 4


def test_without_gradients_nothing_is_turned(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    monkeypatch.setattr(torch.autograd.function.FunctionCtx, "save_for_backward", lambda _, *x: kept.append(len(x)))
    x, weight = torch.randn(32, 64), torch.randn(48, 64, requires_grad=True)
    with torch.no_grad():
        fp8.Scaled(slots.gemm)(x, weight)
    assert kept == []
    fp8.Scaled(slots.gemm)(x, weight)
    assert kept == [4]
