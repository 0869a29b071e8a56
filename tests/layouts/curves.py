"""What a rank of a tiny run does, and what it tells of it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from phalanx import registry
from phalanx.data.tokenize import load_tokenizer
from phalanx.run.folder import RunFolder
from phalanx.train.trainer import Trainer
from tests.train.runs import Corpus, Record

# Four heads, for four tensor-parallel ranks; two blocks, unless a case wants more; dropout on; a batch for eight
# replicas.
TINY = ["model.heads=4", "model.layers=2", "model.dropout=0.1", "train.batch=8", "train.steps=6", "train.eval_every=3",
        "train.eval_sequences=7"]  # fmt: skip


class Curve(NamedTuple):
    """What the first rank saw: each step's loss and gradient norm, each evaluation's loss."""

    losses: list[float]
    norms: list[float]
    valid: list[float]


Weights = dict[str, NDArray[np.float32]]


def made(folder: Path, family: str, *words: str, run: Path | None = None) -> tuple[Trainer, Record]:
    """This rank's trainer. Without a `run` folder nothing is saved."""
    processes = dist.get_world_size() if dist.is_initialized() else 1
    config = Corpus(folder).config(family, *TINY, *words, processes=processes)
    tokenizer = load_tokenizer(config.data.tokenizer)
    record: Any = Record()
    task = registry.TASKS.find(config.task)(config, tokenizer)
    return Trainer(config, task, RunFolder(run) if run else None, record), record


def curve(folder: Path, family: str, *words: str, run: Path | None = None) -> Curve:
    """Train, and tell."""
    return _fit(*made(folder, family, *words, run=run))


def from_the_first_weights(folder: Path, family: str, *words: str) -> tuple[Weights, Curve]:
    """The parameters before the first step, whole, those that this rank knows; then train, and tell."""
    trainer, record = made(folder, family, *words)
    return _whole(trainer), _fit(trainer, record)


def _fit(trainer: Trainer, record: Record) -> Curve:
    trainer.fit()
    steps = record.steps.values()
    losses, norms = [values["loss"] for values in steps], [values["grad_norm"] for values in steps]
    return Curve(losses, norms, [values["loss"] for values in record.valids.values()])


def weights(folder: Path, steps: int, family: str, *words: str) -> Weights:
    """The parameters after so many steps, whole."""
    trainer, _ = made(folder, family, *words)
    for step in range(steps):
        trainer.step(step)
    trainer.loader.close()
    return _whole(trainer)


def gradients(folder: Path, families: Sequence[str], *words: str) -> dict[str, Weights]:
    """The gradients of the first step by family and parameter, whole, as the optimizer sees them."""
    seen = {}
    for family in families:
        trainer, _ = made(folder, family, "optim.clip=0", *words)
        (optimizer,) = trainer.optimizers

        def look(*_: Any, trainer: Trainer = trainer, family: str = family) -> None:
            seen[family] = _whole(trainer, lambda parameter: parameter.grad)

        optimizer.register_step_pre_hook(look)
        trainer.step(0)
        trainer.loader.close()
    return seen


def _whole(trainer: Trainer, of: Callable[[Any], Any] = lambda parameter: parameter) -> Weights:
    parameters = trainer.parameters
    return {name: parameters.whole(name, of(p).detach().clone()).numpy() for name, p in parameters.items()}


def farthest(one: Curve, other: Curve) -> float:
    """The largest difference of two curves, norms relative to their size."""
    gaps = [abs(a - b) for a, b in zip(one.losses + one.valid, other.losses + other.valid, strict=True)]
    gaps += [abs(a - b) / a for a, b in zip(one.norms, other.norms, strict=True)]
    assert len(one.losses) >= 4 and torch.tensor(gaps).isfinite().all()
    return max(gaps)
