"""What fills the gemm slot: the numbers are rounded as said, and the gradients are those of rounded products."""

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn import functional as F

from phalanx import processor
from phalanx.models.build import build
from phalanx.models.family import configured
from phalanx.nn.attention import fused
from phalanx.nn.linear import Linear
from phalanx.plan.memory_profiler import MemoryProfiler
from phalanx.precision import gemm, onednn
from phalanx.train.prepare import compile_parts
from tests.batches import batch_of
from tests.test_hot_paths import bytecodes

CPU = torch.device("cpu")
WITH_ONEDNN = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch is built without oneDNN")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def _gradients(product: object, x: Tensor, weight: Tensor, bias: Tensor | None, grad: Tensor) -> list[Tensor]:
    leaves = [None if t is None else t.detach().requires_grad_() for t in (x, weight, bias)]
    y = product(*leaves)  # type: ignore[operator]
    y.backward(grad.to(y.dtype))
    return [y.detach(), *(leaf.grad for leaf in leaves if leaf is not None)]  # type: ignore[misc]


@pytest.mark.numerics
@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("biased", [True, False])
def test_the_emulation_rounds_operands_and_results_and_sums_in_fp32(dtype: torch.dtype, biased: bool) -> None:
    torch.manual_seed(0)
    x, weight, bias, grad = (torch.randn(shape) for shape in ((2, 3, 16), (8, 16), (8,), (2, 3, 8)))
    y, dx, dw, *db = _gradients(gemm._Rounded(dtype), x, weight, bias if biased else None, grad)
    xs, ws, gs = (t.to(dtype).double() for t in (x, weight, grad))
    torch.testing.assert_close(y, F.linear(xs, ws, bias.double() if biased else None).to(dtype), atol=0, rtol=2**-7)
    assert y.dtype == dtype and dx.dtype == dw.dtype == torch.float32
    torch.testing.assert_close(dx, (gs @ ws).to(dtype).float(), atol=0, rtol=2**-7)
    torch.testing.assert_close(dw, torch.einsum("bso,bsi->oi", gs, xs).float(), atol=1e-5, rtol=1e-5)
    if biased:
        torch.testing.assert_close(db[0], gs.sum((0, 1)).float(), atol=1e-5, rtol=1e-5)


@pytest.mark.numerics
@pytest.mark.parametrize("dtype", DTYPES.values())
def test_the_emulation_is_close_to_the_hardware_s_own(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight, bias, grad = (torch.randn(shape) for shape in ((5, 32), (8, 32), (8,), (5, 8)))
    for ours, theirs in zip(
        _gradients(gemm._Rounded(dtype), x, weight, bias, grad),
        _gradients(gemm._Cast(dtype), x, weight, bias, grad),
        strict=True,
    ):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0.02)


def test_fp16_overflows_where_fp16_does() -> None:
    y, dx, *_ = _gradients(gemm._Rounded(torch.float16), torch.full((1, 4), 300.0), torch.full((1, 4), 300.0), None,
                           torch.full((1, 1), 1e6))  # fmt: skip
    assert y.isinf().all() and not dx.isfinite().all()


def _model(attention_dropout: float = 0.0) -> nn.Module:
    config = configured(layers=1, hidden=32, heads=2, positions=16, vocab=64, attention_dropout=attention_dropout)
    return build(config, 0, CPU)


@pytest.mark.numerics
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("attention_dropout", [0.0, 0.1])
def test_a_filled_model_is_close_to_fp32_and_its_weights_stay_fp32(dtype: str, attention_dropout: float) -> None:
    batch = batch_of(torch.arange(32).reshape(2, 16), 16, labels=torch.arange(32).reshape(2, 16) + 1)
    sums = {}
    for name in "fp32", dtype:
        model = _model(attention_dropout)
        gemm.fill(model, name, CPU)
        sums[name] = model(batch)["lm"]
        sums[name].backward()
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)
    assert sums["fp32"].item() != sums[dtype].item()
    assert sums[dtype].item() == pytest.approx(sums["fp32"].item(), rel=2e-3)


def test_fp32_is_torch_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "preferred", lambda _: False)
    model = _model()
    gemm.fill(model, "fp32", CPU)
    slots = [m.gemm for m in model.modules() if isinstance(m, Linear)]
    assert all(slot.__module__ == "phalanx.nn.slots" for slot in slots)
    assert model.transformer.blocks["0"].attention.attend is fused  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("device", "capability", "vendor", "expected"),
    [
        ("cpu", "AVX512", "AuthenticAMD", True),
        ("cpu", "AVX512", "GenuineIntel", False),
        ("cpu", "AVX2", "AuthenticAMD", False),
        ("cpu", "AVX512", "", False),
        ("cuda", "AVX512", "AuthenticAMD", False),
    ],
)
@WITH_ONEDNN
def test_onednn_is_for_amd_with_avx512(
    device: str, capability: str, vendor: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(processor, "vendor", lambda: vendor)
    assert onednn.preferred.__wrapped__(torch.device(device)) == expected


@pytest.mark.numerics
@WITH_ONEDNN
@pytest.mark.parametrize("rows", [(6,), (2, 3), (0,), (256,), (2, 128)])
@pytest.mark.parametrize("biased", [True, False])
def test_products_by_onednn_are_those_of_torch(rows: tuple[int, ...], biased: bool) -> None:
    torch.manual_seed(0)
    x, weight, bias, grad = (torch.randn(shape) for shape in ((*rows, 128), (64, 128), (64,), (*rows, 64)))
    assert (x.numel() * 64 < onednn.SMALL) == (torch.Size(rows).numel() < 256), "some are small"
    given = x, weight, bias if biased else None, grad
    for ours, theirs in zip(_gradients(onednn.linear, *given), _gradients(F.linear, *given), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


@WITH_ONEDNN
@pytest.mark.parametrize(("frozen", "products"), [("", 3), ("x", 2), ("weight", 2)])
def test_the_plan_counts_products_by_onednn(frozen: str, products: int) -> None:
    """One forward, one for each gradient that is wanted."""
    x, weight = torch.randn(2, 128, 128), torch.randn(64, 128)
    leaves = x.requires_grad_(frozen != "x"), weight.requires_grad_(frozen != "weight")
    with MemoryProfiler() as ledger:
        onednn.linear(*leaves).sum().backward()
    assert ledger.flops == products * 2 * x.numel() * 64


@pytest.mark.numerics
@WITH_ONEDNN
def test_a_product_by_onednn_costs_little_python() -> None:
    """Forward and backward, in bytecodes; a small one is torch's own."""
    for rows, most in (16, 30), (256, 200):
        x, weight, bias = (torch.randn(shape).requires_grad_() for shape in ((rows, 128), (64, 128), (64,)))
        found = bytecodes(lambda x=x, weight=weight, bias=bias: onednn.linear(x, weight, bias).sum().backward())
        assert most / 2 < found <= most, found


@pytest.mark.parametrize("frozen", ["x", "weight"])
def test_what_is_frozen_costs_no_product(frozen: str) -> None:
    made = []

    def linear(*given: Tensor) -> Tensor:
        made.append(given)
        return F.linear(*given)

    x, weight = (torch.randn(2, 4).requires_grad_(frozen != name) for name in ("x", "weight"))
    gemm._Rounded(torch.bfloat16, linear)(x, weight).sum().backward()
    assert len(made) == 2 and (x.grad is None) == (frozen == "x") and (weight.grad is None) == (frozen == "weight")


@pytest.mark.slow
@WITH_ONEDNN
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("compiled", [True, pytest.param(False, marks=pytest.mark.numerics)])
def test_a_model_by_onednn_is_that_of_torch(dtype: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an AMD processor with AVX-512, which not every machine of tests has; small products too."""
    monkeypatch.setattr(onednn, "SMALL", 1)
    batch = batch_of(torch.arange(32).reshape(2, 16), 16, labels=torch.arange(32).reshape(2, 16) + 1)
    models = _model(), _model()
    for model, preferred in zip(models, (True, False), strict=True):
        monkeypatch.setattr(onednn, "preferred", lambda _, preferred=preferred: preferred)
        gemm.fill(model, dtype, CPU)
    linears = [m for m in models[0].modules() if isinstance(m, Linear)]
    assert linears and all(getattr(m.gemm, "linear", m.gemm) in (onednn.linear, onednn.multiply) for m in linears)
    if compiled:
        compile_parts(models[0], lengths_vary=False)
    broken = counters["graph_break"].total()
    sums = [model(batch)["lm"] for model in models]
    assert counters["graph_break"].total() == broken
    torch.testing.assert_close(*sums, atol=1e-4, rtol=1e-4)
    for loss in sums:
        loss.backward()
    near = 1e-4 if dtype == "fp32" else 5e-3
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=near, rtol=near)


def test_auto_is_what_the_hardware_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    for native, expected in (True, "bf16"), (False, "fp32"):
        monkeypatch.setattr(gemm, "native_bf16", lambda device, native=native: native)
        assert gemm.resolve("auto", CPU) == expected
        assert gemm.resolve("fp16", CPU) == "fp16"
