"""Blocks in C++ say what the model's own blocks say, of any size; where they cannot be had, one line says why."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from phalanx.errors import InputError
from phalanx.infer import kernels
from phalanx.infer.backends import encoder_program, unavailable
from phalanx.infer.backends.protocol import ProgramSpec
from phalanx.infer.kernels import compiled
from phalanx.models import build as models
from phalanx.models.family import configured, spec_of
from phalanx.nn.attention import Context
from tests.infer.runs import GPT as CONFIG

LENGTHS = (1, 5, 40, 40, 13, 98)  # past a tile's rows, a panel's keys, a task's rows


@pytest.fixture(autouse=True, params=[1, 2], ids=["one thread", "two threads"])
def here(request: pytest.FixtureRequest) -> Iterator[None]:
    if reason := compiled.unavailable():
        pytest.skip(reason)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.numerics
@pytest.mark.parametrize("precision", kernels.PRECISIONS)
@pytest.mark.parametrize(
    ("family", "hidden", "heads", "ffn"),
    [("bert", 64, 1, 100), ("bert", 24, 3, 17), ("gpt2", 128, 4, 512), ("gpt2", 20, 5, 33), ("gpt2", 160, 2, 640)],
)
@pytest.mark.parametrize(("norm_first", "gelu"), [(True, "tanh"), (False, "erf")])
def test_blocks_of_any_size(
    family: str, hidden: int, heads: int, ffn: int, norm_first: bool, gelu: str, precision: str
) -> None:
    """Several sequences of other lengths in one row."""
    config = configured(family=family, layers=2, hidden=hidden, heads=heads, ffn=ffn, positions=128, vocab=32,
                        norm_first=norm_first, gelu=gelu)  # fmt: skip
    model: Any = models.build(config, 1, torch.device("cpu")).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1 if parameter.ndim == 1 else 0, 0.2)
    torch.manual_seed(2)
    x = torch.randn(1, sum(LENGTHS), hidden)
    right = []
    for part in torch.split(x, LENGTHS, 1):
        index = torch.arange(part.shape[1])[None]
        context = Context(index, torch.zeros(1, dtype=torch.int32), None, model.transformer.causal)
        with torch.inference_mode():
            for block in model.transformer.blocks.values():
                part = block(part, context)
        right.append(part)
    blocks = kernels.install(model, precision)
    ends = torch.tensor([0, *accumulate(LENGTHS)], dtype=torch.int32)
    found = blocks(x.clone(), replace(context, cu_seqlens=ends))
    if precision == "fp32":
        torch.testing.assert_close(found, torch.cat(right, 1), atol=2e-4, rtol=1e-4)
    else:
        assert torch.cosine_similarity(found.flatten(), torch.cat(right, 1).flatten(), dim=0) > 0.995


@pytest.mark.numerics
@pytest.mark.parametrize("precision", kernels.PRECISIONS)
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 3, 1), (7, 30, 33), (100, 129, 64)])
def test_products(rows: int, inputs: int, outputs: int, precision: str) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
    found = kernels.PackedLinear(weight, precision == "int8")(x, weight, bias)
    right = x @ weight.T + bias
    assert torch.norm(found - right) < torch.norm(right) * (1e-6 if precision == "fp32" else 0.03)


def test_rows_that_are_alike() -> None:
    """A row of one number, zeros above all, has no range to round by."""
    weight = torch.randn(5, 16)
    for value in (0.0, 3.0):
        x = torch.full((2, 16), value)
        torch.testing.assert_close(kernels.PackedLinear(weight, True)(x, weight), x @ weight.T, atol=0.5, rtol=0)


@pytest.mark.parametrize("precision", kernels.PRECISIONS)
@pytest.mark.parametrize("where", ["feed_forward.up", "attention.qkv"])
def test_what_is_not_finite_shows(where: str, precision: str) -> None:
    config = CONFIG.model.model_copy(update={"vocab": 32})
    model: Any = models.build(config, 0, torch.device("cpu")).eval()
    with torch.no_grad():
        next(iter(model.transformer.blocks.values())).get_submodule(where).weight[3, 3] = np.nan
    blocks = kernels.install(model, precision)
    ends = torch.tensor([0, 4], dtype=torch.int32)
    context = Context(torch.arange(4)[None], torch.zeros(1, dtype=torch.int32), None, True, cu_seqlens=ends)
    assert not blocks(torch.randn(1, 4, config.hidden), context).isfinite().all()


@pytest.fixture
def anew() -> Iterator[None]:
    """Nothing is remembered of the compiler."""
    for remembered in (compiled.unavailable, compiled.functions):
        remembered.cache_clear()
    yield
    for remembered in (compiled.unavailable, compiled.functions):
        remembered.cache_clear()


@pytest.mark.usefixtures("anew")
def test_torch_s_switch_caps_the_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels that it gives are others, and right."""
    before = compiled.functions()._name
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2" if compiled._instructions() == "-march=native" else "avx512")
    compiled.functions.cache_clear()
    assert compiled.functions()._name != before
    test_products(7, 30, 33, "int8")


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize(("compiler", "said"), [("", "no C++ compiler is installed"), ("false", "could not make")])
def test_without_a_compiler(compiler: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(compiled, "_compiler", lambda: compiler)
    monkeypatch.setenv("PHALANX_CACHE", str(tmp_path))
    assert said in unavailable("native", "encoder", spec_of(CONFIG.model), "fp32")
    with pytest.raises(InputError, match=re.escape(said)):
        encoder_program("native", ProgramSpec(cast(Any, SimpleNamespace(spec=spec_of(CONFIG.model))), "fp32", False))
