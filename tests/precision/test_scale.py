"""The loss scale finds a value that works, and says when none does."""

import pytest
from pydantic import ValidationError

from phalanx.config import PrecisionConfig
from phalanx.errors import InputError
from phalanx.precision.scale import LossScale
from phalanx.train.guard import Guard

INF, NAN = float("inf"), float("nan")


def fp16(loss_scale: float = 1024.0, window: int = 3, floor: float = 1.0) -> LossScale:
    return LossScale(PrecisionConfig(dtype="fp16", loss_scale=loss_scale, scale_window=window, scale_floor=floor))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_other_precisions_need_none(dtype: str) -> None:
    scale = LossScale(PrecisionConfig.model_validate({"dtype": dtype, "scale_window": 1}))
    for good in (True, False, True):
        scale.update(good)
    assert scale.value == 1.0
    assert not scale.overflowed(1.0, INF), "a bad gradient there is bad"


def test_it_doubles_after_a_window_of_good_steps() -> None:
    scale = fp16()
    seen = []
    for good in (True, True, True, True, True, False, True, True, True):
        scale.update(good)
        seen.append(scale.value)
    assert seen == [1024, 1024, 2048, 2048, 2048, 1024, 1024, 1024, 2048]


def test_it_halves_down_to_the_floor() -> None:
    scale = fp16(loss_scale=8, floor=3)
    seen = []
    for _ in range(4):
        scale.update(False)
        seen.append(scale.value)
    assert seen == [4, 3, 3, 3]


@pytest.mark.parametrize(
    ("loss", "norm", "value", "expected"),
    [
        (1.0, INF, 2.0, True),
        (1.0, NAN, 2.0, True),
        (1.0, INF, 1.0, False),
        (NAN, INF, 2.0, False),
        (1.0, 1.0, 2.0, False),
    ],
)
def test_an_overflow_is_a_bad_gradient_of_a_good_loss_above_the_floor(
    loss: float, norm: float, value: float, expected: bool
) -> None:
    assert fp16(loss_scale=value).overflowed(loss, norm) is expected


def run(limit: float, steps: int = 200) -> tuple[LossScale, Guard, int]:
    """The trainer's protocol, with gradients that overflow when the scale is above `limit`."""
    scale, guard = fp16(loss_scale=65536, window=20), Guard(10)
    for step in range(steps):
        norm = INF if scale.value > limit else 1.0
        scale.update(guard.check(1.0, norm, overflow=scale.overflowed(1.0, norm)))
        if guard.exhausted:
            return scale, guard, step + 1
    return scale, guard, steps


def test_it_settles_where_gradients_fit() -> None:
    scale, guard, steps = run(limit=1000)
    assert (steps, guard.bad) == (200, 0)
    assert scale.value in (512, 1024)
    assert 7 <= guard.skipped <= 7 + 200 // 20


def test_overflow_at_the_floor_ends_the_run() -> None:
    """16 halvings to the floor, then as many bad steps as the guard allows: never skipping for ever."""
    scale, guard, steps = run(limit=0)
    assert (scale.value, guard.exhausted, steps) == (1.0, True, 16 + 10)


def test_it_survives_a_checkpoint() -> None:
    scale, other = fp16(), fp16(loss_scale=4)
    scale.update(True)
    scale.update(True)
    other.load_state_dict(scale.state_dict())
    other.update(True)
    assert other.value == 2048


def test_a_first_scale_below_the_floor_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"precision\.loss_scale=2 is below precision\.scale_floor=16; raise"):
        fp16(loss_scale=2, floor=16)


def test_it_grows_to_a_bound_only() -> None:
    """Else a long run whose gradients vanish would end at infinity."""
    scale = fp16(loss_scale=2.0**31, window=1)
    for _ in range(3):
        scale.update(True)
    assert scale.value == 2.0**32
    with pytest.raises(ValidationError, match="4294967296"):
        fp16(loss_scale=2.0**33)
