"""Nothing but finite steps reaches the weights, and the guard names the culprit."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from phalanx.train.guard import Guard
from phalanx.train.optim import clip
from tests.train.described import parameters_of

NAN, INF = float("nan"), float("inf")


class Root(nn.Module):
    """Finite forward, infinite gradient where a value is 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


class Log(nn.Module):
    """NaN, of whatever."""

    def forward(self, x: Tensor) -> Tensor:
        return (-1 - x.abs()).log()


class Toy(nn.Module):
    """first → middle → last; the loss is the sum."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.middle, self.last = nn.Linear(3, 3), middle, nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.last(self.middle(self.first(x))).sum())


def exhausted(limit: int = 3) -> Guard:
    guard = Guard(limit)
    for _ in range(limit):
        guard.check(NAN, NAN)
    return guard


@pytest.mark.parametrize(("loss", "norm"), [(NAN, 1.0), (INF, 1.0), (1.0, NAN), (1.0, INF), (-INF, NAN)])
def test_a_bad_step_does_not_pass(loss: float, norm: float) -> None:
    guard = Guard(3)
    assert guard.check(1.0, 1.0)
    assert not guard.check(loss, norm)
    assert (guard.bad, guard.skipped) == (1, 1)


def test_only_bad_steps_in_a_row_exhaust_it() -> None:
    guard = Guard(3)
    for losses in ([NAN, NAN, 1.0], [NAN, 1.0], [NAN, NAN]):
        for loss in losses:
            guard.check(loss, 1.0)
            assert not guard.exhausted
    guard.check(1.0, INF)
    assert guard.exhausted
    assert guard.skipped == 6


def test_overflows_are_skipped_but_not_bad() -> None:
    guard = Guard(2)
    assert not any(guard.check(1.0, INF, overflow=True) for _ in range(20))
    assert (guard.bad, guard.skipped, guard.exhausted) == (0, 20, False)
    guard.check(1.0, INF)
    guard.check(1.0, INF, overflow=True)
    guard.check(1.0, INF)
    assert guard.exhausted, "an overflow in between does not make the others good"


def test_its_counts_survive_a_checkpoint() -> None:
    guard, other = exhausted(), Guard(3)
    other.load_state_dict(guard.state_dict())
    assert other.exhausted
    assert other.skipped == 3


@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("guarded", [True, False])
def test_the_weights_stay_as_they_were(bad: float, guarded: bool) -> None:
    """With the control: the same step without the guard does ruin them."""
    model = Toy(nn.Identity())
    optimizer = torch.optim.AdamW(model.parameters())
    guard = Guard(3)
    for x in (torch.ones(2, 3), torch.full((2, 3), bad), torch.ones(2, 3)):
        before = [p.detach().clone() for p in model.parameters()]
        loss = model(x)
        loss.backward()
        good = guard.check(loss.item(), clipped(model).item())
        if good or not guarded:
            optimizer.step()
        same = all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
        assert same == (guarded and not good)
        model.zero_grad()
    assert all(p.isfinite().all() for p in model.parameters()) == guarded


def clipped(model: nn.Module) -> Tensor:
    parameters = parameters_of(model)
    return clip(parameters, parameters.square(), 1.0)


def fail(model: Toy, x: Tensor) -> Callable[[], Tensor]:
    """A failed step as the trainer leaves it: gradients clipped, still there."""
    model(x).backward()
    assert not clipped(model).isfinite()
    return lambda: torch.as_tensor(model(x))


def test_it_names_a_bad_weight() -> None:
    model = Toy(nn.Identity())
    with torch.no_grad():
        model.last.weight[0, 1] = NAN
    assert "not finite first: the weight last.weight." in exhausted().diagnose(model, fail(model, torch.ones(1, 3)))


def test_it_names_the_innermost_module_with_a_bad_output() -> None:
    model = Toy(nn.Sequential(nn.Tanh(), nn.Sequential(nn.ReLU(), Log()), nn.Tanh()))
    report = exhausted().diagnose(model, fail(model, torch.ones(1, 3)))
    assert "not finite first: the output of middle.1.1. " in report
    assert report.startswith("3 steps in a row had a NaN or infinite loss or gradient")


def test_it_tells_a_bad_input_from_a_bad_module() -> None:
    model = Toy(nn.Identity())
    report = exhausted().diagnose(model, fail(model, torch.full((1, 3), INF)))
    assert "the output of first, whose input was not finite either" in report


def test_it_names_the_gradient_where_backward_went_wrong() -> None:
    """√ at 0 spoils the gradients of all that came before it in the model, and it is the nearest that is named."""
    model = Toy(nn.Sequential(nn.Linear(3, 3), Root()))
    inner = model.middle[0]  # type: ignore[index]
    nn.init.zeros_(inner.weight)
    nn.init.zeros_(inner.bias)
    forward = fail(model, torch.ones(1, 3))
    assert model.first.weight.grad is not None
    assert not model.first.weight.grad.isfinite().all()
    assert "not finite first: the gradient of middle.0.bias." in exhausted().diagnose(model, forward)


def test_it_says_when_it_finds_nothing_and_leaves_no_hooks() -> None:
    model = Toy(nn.Identity())
    model(torch.ones(1, 3)).backward()
    assert "nowhere on a second look" in exhausted().diagnose(model, lambda: model(torch.ones(1, 3)))
    assert not any(module._forward_hooks for module in model.modules())


def test_it_looks_into_compiled_blocks() -> None:
    model = Toy(nn.Sequential(nn.ReLU(), Log()))
    model.middle.compile(backend="eager")
    report = exhausted().diagnose(model, fail(model, torch.ones(1, 3)))
    assert "the output of middle.1." in report
