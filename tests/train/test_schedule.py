"""Rates and batches as functions of the step, against the sources they follow."""

import math
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phalanx.config import Config, TrainConfig
from phalanx.errors import InputError
from phalanx.train.optimizers import AdamW
from phalanx.train.schedule import batch_size, check_schedule, learning_rate, samples_before


@pytest.mark.parametrize(
    ("lr", "total", "warmup", "ends"), [(6e-3, 7038, 0.2843, 2000), (4e-3, 1563, 0.128, 200)], ids=["phase1", "phase2"]
)
def test_nvidias_two_phases(lr: float, total: int, warmup: float, ends: int) -> None:
    """Its scheduler: progress × base / warmup below the warm-up's share, then base × √(1 - progress), at step + 1."""
    optim = AdamW(lr=lr, warmup=warmup, schedule="polynomial", power=0.5)
    rates = [learning_rate(step, optim, total) for step in range(total)]
    for step, rate in enumerate(rates):
        progress = (step + 1) / total
        expected = lr * progress / warmup if progress < warmup else lr * (1 - progress) ** 0.5
        assert rate == pytest.approx(expected, rel=1e-12, abs=1e-18), step
    assert rates[-1] == 0.0
    assert max(rates) == rates[ends - 1]
    assert rates[ends] == pytest.approx(lr * math.sqrt(1 - (ends + 1) / total))


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "polynomial"])
def test_warm_up_is_linear_and_ends_at_the_peak(schedule: str) -> None:
    optim = AdamW(lr=1.0, warmup=10, schedule=schedule)
    assert [learning_rate(step, optim, 100) for step in range(10)] == [(step + 1) / 10 for step in range(10)]


@pytest.mark.parametrize(
    ("schedule", "middle", "last"),
    [("constant", 1.0, 1.0), ("linear", 0.6, 0.2), ("cosine", 0.6, 0.2), ("polynomial", 0.2 + 0.8 * 0.45, 0.2)],
)
def test_decay_to_the_lowest_rate(schedule: str, middle: float, last: float) -> None:
    """At the middle of what follows the warm-up; the polynomial, of degree 1 here, counts from the run's begin."""
    optim = AdamW(lr=1.0, min_lr=0.2, warmup=0.1, schedule=schedule, power=1.0)
    rates = [learning_rate(step, optim, 100) for step in range(100)]
    assert rates[54] == pytest.approx(middle)
    assert rates[99] == pytest.approx(last)
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_cosine_at_a_quarter() -> None:
    optim = AdamW(lr=1.0, schedule="cosine")
    assert learning_rate(24, optim, 100) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


@pytest.mark.parametrize("decay", [20, 0.2])
@pytest.mark.parametrize(
    ("shape", "quarter", "middle"),
    [("linear", 0.75, 0.5), ("cosine", 0.5 + math.sqrt(0.5) / 2, 0.5), ("1-sqrt", 0.5, 1 - math.sqrt(0.5))],
)
def test_warm_up_stable_decay(shape: str, quarter: float, middle: float, decay: float) -> None:
    """As torchtitan's and nanotron's: linear (SmolLM2, SmolLM3), cosine, 1 - the root of what is done of the decay."""
    optim = AdamW(lr=1.0, warmup=10, schedule="wsd", decay_steps=decay, decay_shape=shape)
    rates = [learning_rate(step, optim, 100) for step in range(100)]
    assert rates[9:80] == [1.0] * 71 and rates[4] == 0.5
    assert (rates[84], rates[89], rates[99]) == (pytest.approx(quarter), pytest.approx(middle), 0.0)
    assert learning_rate(94, optim.model_copy(update={"min_lr": 0.5}), 100) >= 0.5


def test_a_stable_rate_does_not_depend_on_the_length_of_the_run() -> None:
    optim = AdamW(lr=1.0, warmup=10, schedule="wsd")
    assert {learning_rate(step, optim, total) for total in (60, 100) for step in range(10, total)} == {1.0}


def test_beyond_the_end_the_rate_stays_lowest() -> None:
    optim = AdamW(lr=1.0, min_lr=0.1, schedule="linear")
    assert learning_rate(150, optim, 100) == 0.1


def megatron(batch: int, first: int, increment: int, samples: int) -> list[tuple[int, int]]:
    """(batch, samples before) of step after step, by the rule of --rampup-batch-size: after each equal share of the
    ramp's samples the batch grows by the increment. Goes on a little after the ramp."""
    levels, consumed, steps = (batch - first) // increment, 0, []
    while consumed <= samples + 3 * batch:
        size = batch if consumed >= samples else first + consumed * levels // samples * increment
        steps.append((size, consumed))
        consumed += size
    return steps


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 20), st.integers(1, 8), st.integers(0, 9), st.integers(1, 2000))
def test_ramp_up_equals_counting(first: int, increment: int, levels: int, samples: int) -> None:
    train = TrainConfig(batch=first + levels * increment, rampup=(first, increment, samples))
    for step, (size, before) in enumerate(megatron(train.batch, first, increment, samples)):
        assert (batch_size(step, train), samples_before(step, train)) == (size, before), step


def test_ramp_up_by_hand() -> None:
    """32 to 96 by 32 over 300 samples: two shares of 150, so five steps of 32 (0 … 160), then three of 64 (… 352)."""
    train = TrainConfig(batch=96, rampup=(32, 32, 300))
    sizes = [batch_size(step, train) for step in range(10)]
    assert sizes == [32] * 5 + [64] * 3 + [96] * 2
    assert [samples_before(step, train) for step in (0, 5, 8, 10)] == [0, 160, 352, 544]


def test_no_ramp_up() -> None:
    train = TrainConfig(batch=7)
    assert [batch_size(s, train) for s in (0, 5)] == [7, 7]
    assert [samples_before(s, train) for s in (0, 5)] == [0, 35]


def test_far_into_a_large_run() -> None:
    """Positions are exact and quick where counting is not: GPT-3's ramp, a thousand billion samples in."""
    train = TrainConfig(batch=1536, rampup=(32, 32, 4_000_000))
    last = next(step for step in range(10**6) if batch_size(step, train) == 1536)
    before = samples_before(last, train)
    assert 4_000_000 <= before < 4_000_000 + 1536
    assert samples_before(last + 10**9, train) == before + 1536 * 10**9
    steps = islice(range(0, last, 97), 100)
    assert all(samples_before(s + 1, train) - samples_before(s, train) == batch_size(s, train) for s in steps)


def config(optim: dict[str, object] | None = None, **train: object) -> Config:
    return Config.model_validate({"optim": optim or {}, "train": {"steps": 100, "batch": 96, **train}})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (config({"warmup": 100}), r"optim\.warmup=100 is no shorter than train\.steps=100; lower it"),
        (config({"decay_steps": 9}), r"optim\.decay_steps=9 is for optim\.schedule=wsd, not cosine"),
        (
            config({"schedule": "wsd", "decay_steps": 0.9, "warmup": 11}),
            r"optim\.decay_steps=0\.9 and optim\.warmup=11 are more than train\.steps=100 \(90 \+ 11\); lower one",
        ),
        (config({"lr": 1e-4, "min_lr": 1e-3}), r"optim\.min_lr=0\.001 is above optim\.lr=0\.0001; lower it"),
        (config(rampup=(32, 0, 10)), r"train\.rampup=\[32, 0, 10\] needs .* none of them 0"),
        (config(rampup=(0, 8, 0)), r"needs .* none of them 0"),
        (config(rampup=(32, 60, 500)), r"does not reach train\.batch=96 in whole increments; an increment of .* would"),
        (config(rampup=(128, 32, 500)), r"begins above train\.batch=96; begin at 96 or less"),
    ],
)
def test_what_cannot_run_is_an_input_error(bad: Config, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_schedule(bad)


@pytest.mark.parametrize(
    "good", [config(), config({"warmup": 99}), config({"warmup": 0.999}), config(rampup=(32, 16, 500)), config(steps=1)]
)
def test_what_can_run_passes(good: Config) -> None:
    check_schedule(good)
