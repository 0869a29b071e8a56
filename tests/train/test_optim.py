"""Optimizers: who decays, who is whose, clipping, and moments that survive a checkpoint to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.optim import Optimizer

from phalanx.errors import InputError
from phalanx.optimizer import optimizer_of
from phalanx.parallel.parameters import Local, Parameters
from phalanx.spec import partition
from phalanx.spec.leaves import Dim, Fused, Parameter
from phalanx.train.muon import Muon as Orthogonal
from phalanx.train.muon import orthogonal
from phalanx.train.optim import clip
from phalanx.train.optimizers import STEPS, AdamW, Muon
from tests.train.described import parameters_of

BUILDERS = ("adamw", "lamb", "muon")
OPTIM = AdamW(lr=0.01, weight_decay=0.1)
MUON = Muon(lr=0.01, weight_decay=0.1)


class Toy(nn.Module):
    """The names of a transformer, and layers that no step touches, as BERT's pair head without pairs."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.token = nn.Embedding(7, 6)
        self.blocks = nn.ModuleDict({str(i): nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6)) for i in range(2)})
        self.blocks["unused"] = nn.Linear(6, 6)
        self.head = nn.Linear(6, 7)
        self.unused = nn.Linear(6, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens)
        for layer in ("0", "1"):
            x = x + self.blocks[layer](x)
        return nn.functional.cross_entropy(self.head(x), tokens)


def build(name: str, model: nn.Module) -> list[Optimizer]:
    return optimizer_of(name)(name=name, lr=0.01, weight_decay=0.1).build(parameters_of(model))


def train(model: nn.Module, optimizers: list[Optimizer], steps: range) -> list[float]:
    losses = []
    for step in steps:
        tokens = torch.arange(5) + step % 3
        loss = model(tokens)
        loss.backward()
        losses.append(loss.item())
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad()
    return losses


@pytest.mark.parametrize("name", BUILDERS)
def test_each_parameter_once_and_only_matrices_decay(name: str) -> None:
    model = Toy()
    decays = {
        id(p): group["weight_decay"]
        for optimizer in build(name, model)
        for group in optimizer.param_groups
        for p in group["params"]
    }
    assert len(decays) == len(list(model.parameters()))
    for key, p in model.named_parameters():
        assert decays[id(p)] == (0.1 if p.ndim == 2 else 0.0), key
    assert {key for key, p in model.named_parameters() if not decays[id(p)]} == {
        f"{key}.bias"
        for key in ("head", "unused", "blocks.unused", *(f"blocks.{i}.{j}" for i in (0, 1) for j in (0, 1)))
    } | {"blocks.0.1.weight", "blocks.1.1.weight"}


@pytest.mark.parametrize("name", BUILDERS)
def test_it_learns(name: str) -> None:
    model = Toy()
    losses = train(model, build(name, model), range(120))
    assert losses[-1] < 0.4 * losses[0]


def test_adamw_is_fused_and_equals_the_plain_one() -> None:
    model, plain = Toy(), Toy()
    (optimizer,) = OPTIM.build(parameters_of(model))
    assert optimizer.param_groups[0]["fused"]
    groups = [
        {"params": [p for p in plain.parameters() if p.ndim == 2], "weight_decay": 0.1},
        {"params": [p for p in plain.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    train(model, [optimizer], range(10))
    train(plain, [torch.optim.AdamW(groups, 0.01, (0.9, 0.999), 1e-8, foreach=False)], range(10))
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_muon_takes_the_blocks_matrices_at_the_rate_of_adamw() -> None:
    model = Toy()
    spectral, rest = MUON.build(parameters_of(model))
    matrices = [p for group in spectral.param_groups for p in group["params"]]
    names = {id(p): name for name, p in model.named_parameters()}
    assert [names[id(p)] for p in matrices] == ["blocks.0.0.weight", "blocks.1.0.weight", "blocks.unused.weight"]
    assert isinstance(rest, torch.optim.AdamW)
    before = matrices[0].detach().clone()
    matrices[0].grad = torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    spectral.step()
    change = matrices[0].detach() - before * (1 - 0.01 * 0.1)
    assert 0.1 * 0.01 < change.square().mean().sqrt().item() < 0.3 * 0.01  # the paper scales its updates to 0.2


@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_muon_steps_as_torchs_does(shape: tuple[int, int]) -> None:
    """Which is always in bf16, as ours is asked to be here; in fp32 singular values are where they should be, too."""
    dice = torch.Generator().manual_seed(3)
    model = nn.ModuleDict({"blocks": nn.Linear(*reversed(shape), bias=False)})
    (p,), theirs = model.parameters(), nn.Parameter(torch.zeros(shape))
    theirs.data.copy_(p.data)
    ours, _ = MUON.build(parameters_of(nn.ModuleDict({"blocks": model["blocks"], "head": nn.Linear(2, 2)})))
    vars(ours)["number"] = torch.bfloat16
    other = torch.optim.Muon([theirs], OPTIM.lr, OPTIM.weight_decay, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        p.grad = torch.randn(shape, generator=dice)
        theirs.grad = p.grad.clone()
        ours.step()
        other.step()
        torch.testing.assert_close(p, theirs, rtol=0, atol=1e-3 * OPTIM.lr)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=dice), STEPS))
    assert values.min() > 0.6 and values.max() < 1.3


def muon_step(grad: Tensor, rows: Dim, split_fused: bool) -> Tensor:
    """What Muon adds to a matrix of zeros."""
    parameter, p = Parameter("qkv", "matrix", (rows, Dim("embed", grad.shape[1]))), nn.Parameter(torch.zeros_like(grad))
    held = {"qkv": Local(p, p, parameter, (partition.whole(parameter.shape),))}
    p.grad = grad.clone()
    Orthogonal(Parameters(held), 0.1, 0.0, STEPS, split_fused).step()
    return p.detach()


def test_muon_takes_fused_parts_apart() -> None:
    """As three matrices would be, each of the rows of two groups, where it is asked to; else what is one as one."""
    dice, sizes = torch.Generator().manual_seed(3), (4, 2, 2)
    grads = [torch.randn(2 * size, 6, generator=dice) for size in sizes]
    fused = tuple(Fused(name, size) for name, size in zip("qkv", sizes, strict=True))
    whole = torch.cat([grad.view(2, -1, 6) for grad in grads], dim=1).flatten(0, 1)
    apart = muon_step(whole, Dim("heads", 16, 2, fused=fused), split_fused=True)
    three = [muon_step(grad, Dim("heads", len(grad)), split_fused=True) for grad in grads]
    for part, alone in zip(torch.split(apart.view(2, 8, 6), sizes, dim=1), three, strict=True):
        torch.testing.assert_close(part.flatten(0, 1), alone, rtol=1e-6, atol=1e-9)

    one = muon_step(whole, Dim("heads", 16, 2, fused=fused), split_fused=False)
    assert torch.equal(one, muon_step(whole, Dim("heads", 16), split_fused=True))
    assert not torch.allclose(one, apart, atol=1e-3)


@pytest.mark.parametrize(("dtype", "narrow"), [("fp32", False), ("bf16", True), ("fp8", True), ("fp16", True)])
def test_muon_is_narrow_only_where_the_run_is(dtype: str, narrow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where the device multiplies bf16."""
    parameters = parameters_of(Toy(), dtype)
    for native in (True, False):
        monkeypatch.setattr("phalanx.train.muon.native_bf16", lambda _, native=native: native)
        assert MUON.build(parameters)[0].number == (torch.bfloat16 if narrow and native else torch.float32)  # type: ignore[attr-defined]


def test_muon_without_blocks_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"optim\.name=muon finds no matrices .*; use adamw"):
        MUON.build(parameters_of(nn.Linear(3, 3)))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("name", BUILDERS)
def test_a_resumed_run_is_bit_equal(name: str, tmp_path: Path) -> None:
    """Through real files, into another model's optimizers; a parameter that never had a gradient does not disturb."""
    model = Toy()
    optimizers = build(name, model)
    train(model, optimizers, range(4))
    dcp.save(state(model, optimizers), checkpoint_id=tmp_path, no_dist=True)
    expected = train(model, optimizers, range(4, 12))

    resumed = Toy(seed=1)
    others = build(name, resumed)
    loaded = state(resumed, others)
    dcp.load(loaded, checkpoint_id=tmp_path, no_dist=True)
    resumed.load_state_dict(loaded["model"])
    set_optimizer_state_dict(resumed, others, loaded["optimizer"])
    assert train(resumed, others, range(4, 12)) == expected
    for ours, theirs in zip(resumed.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", BUILDERS)
def test_asking_for_the_state_changes_nothing(name: str) -> None:
    """A checkpoint before the first good step must not count as one."""
    model, other = Toy(), Toy()
    optimizers, others = build(name, model), build(name, other)
    moments = get_optimizer_state_dict(model, optimizers)["state"]
    assert len(moments) == len(list(model.parameters()))
    assert not any(value.any() for values in moments.values() for value in values.values())  # type: ignore[union-attr]
    assert train(model, optimizers, range(3)) == train(other, others, range(3))


def state(model: nn.Module, optimizers: list[Optimizer]) -> dict[str, Any]:
    return {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizers)}


def parameters_with(*grads: list[float]) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(len(grad))) for grad in grads]
    for p, grad in zip(parameters, grads, strict=True):
        p.grad = torch.tensor(grad)
    return parameters


def clipped(parameters: list[nn.Parameter], limit: float, scale: float = 1.0) -> Tensor:
    of = parameters_of(nn.ParameterList(parameters))
    return clip(of, of.square(), limit, scale)


def grads_of(parameters: list[nn.Parameter]) -> list[list[float]]:
    return [p.grad.tolist() for p in parameters if p.grad is not None]


@pytest.mark.parametrize("scale", [1.0, 1024.0])
@pytest.mark.parametrize(("limit", "factor"), [(0.0, 1.0), (2.5, 0.5), (5.0, 1.0), (100.0, 1.0)])
def test_clip_bounds_the_global_norm_and_takes_the_scale_out(limit: float, factor: float, scale: float) -> None:
    parameters = parameters_with([3.0 * scale, 0.0], [4.0 * scale])
    parameters.append(nn.Parameter(torch.ones(2)))  # no gradient
    assert clipped(parameters, limit, scale).item() == 5.0
    assert grads_of(parameters) == [[3 * factor, 0.0], [4 * factor]]
    assert parameters[2].grad is None


def test_clip_of_zeros_stays_zero() -> None:
    parameters = parameters_with([0.0, 0.0])
    assert clipped(parameters, 1.0).item() == 0.0
    assert grads_of(parameters) == [[0.0, 0.0]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_clip_does_not_spread_what_is_bad(bad: float) -> None:
    parameters = parameters_with([1.0, 2.0], [bad, 3.0])
    assert not clipped(parameters, 1.0, 2.0).isfinite()
    first, second = grads_of(parameters)
    assert first == [0.5, 1.0]
    assert second[1] == 1.5
