"""Learning rate and batch size as pure functions of the step, so that a resumed run needs no schedule's state.

Steps are 0-based; the rate of a step is taken at step + 1, as NVIDIA's BERT recipe does: a warm-up of 200 steps ends at
the peak with the 200th, and a decay to zero ends at zero with the last.
"""

import math

from phalanx.config import Config, TrainConfig
from phalanx.errors import InputError
from phalanx.optimizer import OptimConfig


def warmup_steps(optim: OptimConfig, total: int) -> float:
    """Return the steps of the warm-up: optim.warmup itself, or that fraction of the run when below 1, not rounded."""
    return optim.warmup * total if optim.warmup < 1 else optim.warmup


def decay_steps(optim: OptimConfig, total: int) -> float:
    """Return the steps of wsd's decay: optim.decay_steps itself, or that fraction of the run when below 1."""
    return optim.decay_steps * total if optim.decay_steps < 1 else optim.decay_steps


def learning_rate(step: int, optim: OptimConfig, total: int) -> float:
    """Return the rate of a run's 0-based `step` of `total`.

    The polynomial is base × (1 - (step + 1) / total) ** power over the whole run, the warm-up included, as in NVIDIA's
    recipe: the rate falls a little when the warm-up ends. wsd decays over its last steps alone, so that until then the
    rate does not depend on `total`. The others decay over the steps after the warm-up.
    """
    done, warmup = step + 1, warmup_steps(optim, total)
    if done <= warmup:
        return optim.lr * done / warmup
    if optim.schedule == "wsd":
        return _warmup_stable_decay(done, optim, total)
    if optim.schedule == "polynomial":
        share: float = max(0.0, 1 - done / total) ** optim.power
    else:
        share = _decayed(optim.schedule, max(0.0, 1 - (done - warmup) / max(total - warmup, 1)))
    return optim.min_lr + (optim.lr - optim.min_lr) * share


def _warmup_stable_decay(done: int, optim: OptimConfig, total: int) -> float:
    """Return the rate of the step with which `done` steps are, after the warm-up."""
    decay, left = decay_steps(optim, total), max(0, total - done)
    if not decay or left >= decay:
        return optim.lr
    return optim.min_lr + (optim.lr - optim.min_lr) * _decayed(optim.decay_shape, left / decay)


def _decayed(shape: str, left: float) -> float:
    """Return the share of the rate above its least that a decay of some shape leaves, with the share `left` to go."""
    match shape:
        case "linear":
            return left
        case "cosine":
            return 0.5 * (1 - math.cos(math.pi * left))
        case "1-sqrt":
            return 1 - math.sqrt(1 - left)
    return 1.0  # constant


def batch_size(step: int, train: TrainConfig) -> int:
    """Return the sequences of the 0-based `step`: constant, or growing by equal increments over the ramp-up."""
    return train.batch if not train.rampup[0] else _ramp(step, train)[0]


def batch_sizes(train: TrainConfig) -> list[int]:
    """Return every batch size of a run, rising."""
    first, increment, _ = train.rampup
    return [*range(first, train.batch, increment), train.batch] if first and increment else [train.batch]


def samples_before(step: int, train: TrainConfig) -> int:
    """Return how many sequences were seen before the 0-based `step`: the position in the data."""
    return step * train.batch if not train.rampup[0] else _ramp(step, train)[1]


def _ramp(step: int, train: TrainConfig) -> tuple[int, int]:
    """Return the batch of `step` and the samples before it. Each size of the ramp serves as many samples."""
    first, increment, samples = train.rampup
    levels = (train.batch - first) // increment
    size, seen, begun = first, 0, 0  # `begun`: the step at which `size` came into force
    for level in range(1, levels + 1):
        end = -(-samples * level // levels)
        steps = max(0, -(-(end - seen) // size))
        if step < begun + steps:
            break
        seen, begun, size = seen + steps * size, begun + steps, size + increment
    return size, seen + (step - begun) * size


def check_schedule(config: Config) -> None:
    """Raise InputError for a warm-up that does not end or a ramp-up that does not arrive."""
    optim, train = config.optim, config.train
    warmup = warmup_steps(optim, train.steps)
    if warmup >= train.steps > 1 and warmup:
        raise InputError(f"optim.warmup={optim.warmup:g} is no shorter than train.steps={train.steps}; lower it")
    if optim.decay_steps and optim.schedule != "wsd":
        raise InputError(
            f"optim.decay_steps={optim.decay_steps:g} is for optim.schedule=wsd, not {optim.schedule}; use that, or 0"
        )
    if (decay := decay_steps(optim, train.steps)) + warmup > train.steps:
        raise InputError(
            f"optim.decay_steps={optim.decay_steps:g} and optim.warmup={optim.warmup:g} are more than "
            f"train.steps={train.steps} ({decay:g} + {warmup:g}); lower one"
        )
    if optim.min_lr > optim.lr:
        raise InputError(f"optim.min_lr={optim.min_lr:g} is above optim.lr={optim.lr:g}; lower it")
    first, increment, _ = train.rampup
    if any(train.rampup) and not all(train.rampup):
        raise InputError(f"train.rampup={list(train.rampup)} needs (first batch, increment, samples), none of them 0")
    if first > train.batch:
        raise InputError(
            f"train.rampup={list(train.rampup)} begins above train.batch={train.batch}; begin at {train.batch} or less"
        )
    if first and (far := train.batch - first) % increment:
        fits = [n for n in range(1, far + 1) if far % n == 0]
        near = {max(n for n in fits if n < increment), min((n for n in fits if n > increment), default=far)}
        raise InputError(
            f"train.rampup={list(train.rampup)} does not reach train.batch={train.batch} in whole increments; "
            f"an increment of {' or '.join(map(str, sorted(near)))} would"
        )
