"""Nothing that is not finite reaches the weights; the run goes on, or ends and says why."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from phalanx.errors import InputError
from phalanx.train.trainer import Trainer
from tests.train.runs import QUIETLY, Corpus, fit, same_bits, trainer

Spoil = Callable[[Trainer], None]


def _weight(made: Trainer) -> None:
    with torch.no_grad():
        made.model.get_parameter("transformer.blocks.1.feed_forward.up.weight")[3, 3] = math.nan


def _activation(made: Trainer) -> None:
    norm = made.model.get_submodule("transformer.blocks.1.norm2")
    norm.register_forward_hook(lambda module, inputs, output: output * math.nan)


def _gradient(made: Trainer) -> None:
    weight = made.model.get_parameter("transformer.blocks.0.attention.out.weight")
    weight.register_hook(lambda grad: grad.index_fill(0, torch.tensor([1]), math.inf))


@pytest.mark.parametrize("family", ["gpt", "bert"])
@pytest.mark.parametrize("optimizer", ["adamw", "lamb", "muon"])
@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (_weight, "the weight transformer.blocks.1.feed_forward.up.weight"),
        (_activation, "the output of transformer.blocks.1.norm2"),
        (_gradient, "the gradient of transformer.blocks.0.attention.out.weight"),
    ],
)
def test_nothing_that_is_not_finite_reaches_the_weights(
    corpus: Corpus, run: Path, family: str, optimizer: str, spoil: Spoil, named: str
) -> None:
    words = [f"optim.name={optimizer}", "train.max_bad_steps=3", *QUIETLY]
    made, record = trainer(run, corpus.config(family, *words))
    made.step(0)
    spoil(made)
    before = everything(made)
    made.progress.step = 1
    with pytest.raises(InputError, match=f"3 steps in a row .* not finite first: {named}"):
        made.fit()
    assert same_bits(everything(made), before)
    assert list(record.steps) == [1, 2, 3]
    assert [values["skipped"] for values in record.steps.values()] == [0, 1, 2]


def everything(made: Trainer) -> list[Tensor]:
    state = made._state()
    moments = [tensor for values in state["optimizer"]["state"].values() for tensor in values.values()]
    return [tensor.clone() for tensor in (*state["model"].values(), *moments)]


def test_one_bad_step_is_skipped_and_the_run_goes_on(corpus: Corpus, run: Path) -> None:
    """The spoiled micro-batch is not the first of its step."""
    made, record = trainer(run, corpus.config("gpt", *QUIETLY))
    calls: list[int] = []

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        calls.append(1)
        return output * (math.nan if len(calls) == 5 else 1.0)  # three forwards a step: the second step's second

    made.model.get_submodule("transformer.norm").register_forward_hook(hook)
    made.fit()
    assert [values["skipped"] for values in record.steps.values()] == [0, 1, 1, 1, 1, 1]
    assert record.steps[2]["loss"] == -1 and record.losses[-1] < record.losses[0]
    assert made.guard.bad == 0
    counts = {int(moments["step"]) for moments in made.optimizers[0].state.values()}
    assert counts == {5}, "a skipped step is none for the optimizer"


def test_the_culprit_is_found_in_a_later_micro_batch(corpus: Corpus, run: Path) -> None:
    made, _ = trainer(run, corpus.config("gpt", *QUIETLY, "train.max_bad_steps=1"))

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output * (math.nan if len(output) == 2 else 1.0)  # 8 = 3 + 3 + 2

    made.model.get_submodule("transformer.blocks.0.norm1").register_forward_hook(hook)
    with pytest.raises(InputError, match=r"the output of transformer\.blocks\.0\.norm1"):
        made.fit()


def test_fp16_settles_on_a_scale(corpus: Corpus, run: Path) -> None:
    words = ["precision.dtype=fp16", "precision.loss_scale=1e8", "precision.scale_window=4", "train.steps=20"]
    record = fit(run, corpus.config("gpt", *QUIETLY, *words))
    scales = [values["scale"] for values in record.steps.values()]
    skipped = [values["skipped"] for values in record.steps.values()]
    assert scales[0] == 5e7 and skipped[0] == 1
    assert 0 < skipped[-1] < 15 and record.losses[-1] < record.losses[0]
    assert any(b == 2 * a for a, b in pairwise(scales)), "it tries a larger one again"


def test_bad_steps_are_not_saved(corpus: Corpus, run: Path) -> None:
    """The weights are those of the step before: saving them again would push good checkpoints out."""
    config = corpus.config("gpt", "train.eval_every=0", "save.every=1", "save.keep=9", "train.max_bad_steps=9")
    made, _ = trainer(run, config)
    calls: list[int] = []

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        calls.append(1)
        return output * (math.nan if 7 <= len(calls) <= 12 else 1.0)  # the third and the fourth step

    made.model.get_submodule("transformer.norm").register_forward_hook(hook)
    made.fit()
    saved = [int(path.name[-7:]) for path in sorted((run / "checkpoints").glob("step-*"))]
    assert saved == [1, 2, 5, 6]
