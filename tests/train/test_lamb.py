"""LAMB against the equations of NVIDIA's recipe, written a second time in numpy."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from phalanx.train.guard import Guard
from phalanx.train.optim import clip
from phalanx.train.optimizers import Lamb
from tests.train.described import parameters_of

OPTIM = Lamb(lr=0.02, weight_decay=0.01, eps=1e-6, clip=1.0)
SKIPPED = {5, 6, 13}


class Toy(nn.Module):
    """Tensors of all the kinds that LAMB tells apart."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.matrix = nn.Parameter(torch.randn(5, 3, generator=random, dtype=torch.float64))
        self.cube = nn.Parameter(torch.randn(2, 3, 4, generator=random, dtype=torch.float64))
        self.zero = nn.Parameter(torch.zeros(4, 4, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(6, generator=random, dtype=torch.float64))


def gradients(step: int) -> dict[str, np.ndarray]:
    """Some larger than the clip, some smaller; `zero` gets none of its own for a while, so its update's norm is 0."""
    random = np.random.default_rng(step)
    size = 3.0 if step % 2 else 0.05
    shapes = {"matrix": (5, 3), "cube": (2, 3, 4), "zero": (4, 4), "bias": (6,)}
    grads = {name: size * random.standard_normal(shape) for name, shape in shapes.items()}
    return grads | ({"zero": np.zeros((4, 4))} if step < 3 else {})


def reference(start: dict[str, np.ndarray], steps: int, decay: float = 0.01) -> dict[str, np.ndarray]:
    """Facts 1.5 and 2.7 by the letter."""
    lr, beta1, beta2, eps, limit = 0.02, 0.9, 0.999, 1e-6, 1.0
    p = {name: value.copy() for name, value in start.items()}
    m = {name: np.zeros_like(value) for name, value in p.items()}
    v = {name: np.zeros_like(value) for name, value in p.items()}
    done = 0
    for step in range(steps):
        if step in SKIPPED:
            continue
        done += 1
        grads = gradients(step)
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        for name, grad in grads.items():
            g = grad / max(1.0, norm / limit)
            m[name] = beta1 * m[name] + (1 - beta1) * g
            v[name] = beta2 * v[name] + (1 - beta2) * g * g
            mean, square = m[name] / (1 - beta1**done), v[name] / (1 - beta2**done)
            wd = 0.0 if name == "bias" else decay
            update = mean / (np.sqrt(square) + eps) + wd * p[name]
            weight, change = np.linalg.norm(p[name]), np.linalg.norm(update)
            ratio = weight / change if wd and weight and change else 1.0
            p[name] = p[name] - lr * ratio * update
    return p


def weights(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().astype(np.float64) for name, p in model.named_parameters()}


def train(model: nn.Module, steps: int, optim: Lamb = OPTIM) -> None:
    """The trainer's order: clip, guard, step. A skipped step has one infinite gradient."""
    parameters = parameters_of(model)
    (optimizer,) = optim.build(parameters)
    guard = Guard(10)
    for step in range(steps):
        for name, p in model.named_parameters():
            p.grad = torch.from_numpy(gradients(step)[name]).to(p.dtype)
        if step in SKIPPED:
            model.get_parameter("matrix").grad.view(-1)[0] = torch.inf  # type: ignore[union-attr]
        if guard.check(1.0, clip(parameters, parameters.square(), optim.clip).item()):
            optimizer.step()
    assert guard.skipped == len(SKIPPED & set(range(steps)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_twenty_steps_equal_the_equations(dtype: torch.dtype, tolerance: float) -> None:
    model = Toy().to(dtype)
    expected = reference(weights(model), 20)
    start = weights(model)
    train(model, 20)
    for name, value in weights(model).items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=tolerance * np.abs(expected[name]).max())
        assert np.abs(value - start[name]).max() > 0.01, name


def test_without_decay_no_trust_ratio() -> None:
    model = Toy()
    expected = reference(weights(model), 4, decay=0.0)
    train(model, 4, OPTIM.model_copy(update={"weight_decay": 0.0}))
    np.testing.assert_allclose(weights(model)["matrix"], expected["matrix"], atol=1e-13)


def test_a_zero_weight_leaves_zero() -> None:
    """Its norm gives no ratio; the ratio is then 1 and not 0, or it would stay zero for ever."""
    model = Toy()
    train(model, 5)
    assert weights(model)["zero"].any()
    assert all(np.isfinite(value).all() for value in weights(model).values())


def test_the_first_step_of_a_matrix_is_lr_times_its_norm() -> None:
    """The ratio makes the step's length independent of the gradient's size."""
    for size in (1e-3, 1.0, 1e3):
        model = Toy()
        before = model.matrix.detach().clone()
        (optimizer,) = OPTIM.build(parameters_of(model))
        model.matrix.grad = torch.full_like(before, size)
        optimizer.step()
        length: Tensor = (model.matrix.detach() - before).norm()
        assert length.item() == pytest.approx(0.02 * before.norm().item(), rel=1e-6)
        assert not model.zero.any(), "no gradient, no step"


def test_an_update_that_cancels_the_decay_moves_nothing() -> None:
    """Its norm is 0, and a ratio of norm(p) / 0 would be NaN."""
    model = nn.Linear(2, 2, bias=False)
    nn.init.constant_(model.weight, -1.0)
    (optimizer,) = Lamb(lr=0.1, beta1=0, beta2=0, eps=1e-12, weight_decay=1.0).build(parameters_of(model))
    model.weight.grad = torch.ones(2, 2)
    optimizer.step()
    assert torch.equal(model.weight, torch.full((2, 2), -1.0))
