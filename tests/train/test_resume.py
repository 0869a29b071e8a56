"""A run that was stopped and resumed is the run that was not: every later loss is bit-equal."""

import shutil
from pathlib import Path

import pytest

from phalanx.config import Config
from phalanx.run.folder import RunFolder
from tests.train.processes import in_fresh_process, train_to_the_end
from tests.train.runs import Corpus, Record, curve, fit, trainer

STEPS, SAVED = 6, 3
DROPOUT = ["model.dropout=0.2", "model.attention_dropout=0.1"]
GROWING = "train.rampup=2,3,12"  # 2, 2, 5, 5, 8, 8: a resume begins in the middle of it
CASES = [
    (family, dtype, optimizer, ramp)
    for family, ramp in (("gpt", "train.rampup=0,0,0"), ("bert", GROWING))
    for dtype in ("fp32", "bf16", "fp16")
    for optimizer in ("adamw", "lamb", "muon")
]


def _config(corpus: Corpus, family: str, dtype: str, optimizer: str, *words: str) -> Config:
    return corpus.config(family, *DROPOUT, f"precision.dtype={dtype}", f"optim.name={optimizer}", *words)


def _uninterrupted(path: Path, config: Config) -> Record:
    """A whole run, and beside it the folder that a kill right after the save of step SAVED leaves."""
    record = fit(path, config.model_copy(update={"save": config.save.model_copy(update={"keep": 9})}))
    part = path.with_name("part")
    shutil.copytree(path, part)
    for checkpoint in (part / "checkpoints").glob("step-*"):
        if int(checkpoint.name[5:]) > SAVED:
            shutil.rmtree(checkpoint)
    RunFolder(part).write_config(config)
    return record


@pytest.mark.parametrize(("family", "dtype", "optimizer", "ramp"), CASES)
def test_every_later_step_is_bit_equal(
    corpus: Corpus, run: Path, family: str, dtype: str, optimizer: str, ramp: str
) -> None:
    config = _config(corpus, family, dtype, optimizer, ramp)
    whole = _uninterrupted(run, config)
    assert list(whole.steps) == list(range(1, STEPS + 1))
    assert len({values["loss"] for values in whole.steps.values()}) == STEPS
    shutil.copytree(run.with_name("part"), run.with_name("again"))
    for resumed in (
        fit(run.with_name("part"), config),
        in_fresh_process(fit, run.with_name("again"), config),
    ):
        assert resumed.steps == {step: values for step, values in whole.steps.items() if step > SAVED}
        assert resumed.valids == {step: values for step, values in whole.valids.items() if step > SAVED}


def test_the_control_other_dropout_is_seen(corpus: Corpus, run: Path) -> None:
    """The test above bites: a run that differs only in its random numbers differs at once."""
    words = ["train.steps=2", "optim.warmup=0"]
    one, other = (
        fit(run / seed, _config(corpus, "gpt", "fp32", "adamw", f"train.seed={seed}", *words)) for seed in "12"
    )
    assert all(a != b for a, b in zip(one.losses, other.losses, strict=True))


@pytest.mark.parametrize(("family", "scale"), [("gpt", 5e7), ("bert", 4e6)])
def test_a_state_saved_before_the_first_good_step(corpus: Corpus, run: Path, family: str, scale: float) -> None:
    """fp16 begins with overflows, and BERT without pairs has weights that get no gradient; neither disturbs."""
    words = [f"precision.loss_scale={scale}", "save.every=1", "data.pairs=none", "train.eval_every=0"]
    config = _config(corpus, family, "fp16", "adamw", *words)
    whole = fit(run, config)
    assert 1 <= whole.steps[1]["skipped"] <= whole.steps[STEPS]["skipped"] < STEPS
    stopped, first = trainer(run.with_name("part"), config)
    stopped.step(0)
    stopped.progress.step = 1
    stopped._save()
    stopped._save_last()
    resumed = fit(run.with_name("part"), config)
    assert first.steps | resumed.steps == whole.steps
    unsaved = fit(run.with_name("unsaved"), _config(corpus, family, "fp16", "adamw", *words, "save.every=0"))
    assert unsaved.steps == whole.steps, "saving changes nothing"


def test_a_damaged_checkpoint_costs_steps_not_exactness(corpus: Corpus, run: Path) -> None:
    config = _config(corpus, "gpt", "fp32", "adamw", "train.eval_every=0", "save.every=2")
    whole = fit(run, config)
    (run / "checkpoints" / "step-0000006" / "model.0.safetensors").write_bytes(b"?")
    resumed = fit(run, config)
    assert resumed.steps == {step: values for step, values in whole.steps.items() if step > 4}
    assert any("step-0000006 is damaged" in note for note in resumed.notes)


def test_metrics_after_resumes_are_one_curve(corpus: Corpus, run: Path) -> None:
    """Through the real monitor, with records of steps that are done again."""
    config = _config(corpus, "bert", "fp32", "adamw", "log.every=1")
    RunFolder.create(run, config, corpus.tokenizer("bert").json())
    train_to_the_end(run)
    expected = curve(run)
    assert [r["step"] for r in expected if r["kind"] == "train"] == list(range(1, STEPS + 1))
    tokens = [r["tokens"] for r in expected if r["kind"] == "train"]
    assert tokens == [8 * 32 * step for step in range(1, STEPS + 1)]
    for newest in (run / "checkpoints" / f"step-{step:07d}" for step in (6, 3)):
        if newest.exists():
            shutil.rmtree(newest)
        train_to_the_end(run)
        assert curve(run) == expected
