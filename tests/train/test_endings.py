"""How a run ends: at the best, by a signal, on a full disk; and what is saved then."""

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from phalanx.errors import InputError
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from phalanx.tasks.run import train
from phalanx.train.trainer import Trainer
from tests.train.runs import QUIETLY, Corpus, fit, trainer


def _with_losses(made: Trainer, monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    given = iter(losses)
    monkeypatch.setattr("phalanx.train.trainer.evaluate", lambda *_, **__: {"loss": next(given), "perplexity": 1.0})


def test_the_best_is_kept_and_the_run_stops_when_it_overfits(
    corpus: Corpus, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["train.steps=9", "train.eval_every=1", "train.patience=3", "save.every=0", "save.keep=1"]
    config = corpus.config("gpt", *words)
    made, record = trainer(run, config)
    _with_losses(made, monkeypatch, [3.0, 2.0, 2.5, 2.0, 2.1])
    made.fit()
    assert list(record.steps) == [1, 2, 3, 4, 5]
    (note,) = record.notes
    assert "has not improved for 3 evaluations. The best is 2.0000 at step 2" in note and "the model overfits" in note
    checkpoints = Checkpointer(RunFolder(run))
    assert checkpoints.latest == 5, "what was learned last is saved too"
    weights = made.model.state_dict()
    assert checkpoints.load_weights(weights, best=True)[:2] == (2, 2.0)
    again = fit(run, config)
    assert not again.steps, "a run that has stopped stays stopped"
    assert again.notes == [f"{run} is finished at step 5; train.init={run} starts another run from it"]


def test_overfitting_is_told_without_stopping(corpus: Corpus, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, record = trainer(run, corpus.config("gpt", "train.eval_every=1"))
    _with_losses(made, monkeypatch, [2.0, 1.5, 1.6, 1.7, 1.8, 1.9])
    made.fit()
    (note,) = record.notes
    assert note.startswith("the model overfits: the held-out loss was lowest at step 2 (1.5000) and is 1.8000 now")
    assert len(record.steps) == 6
    again = fit(run, made.config)
    assert not again.steps
    assert again.notes == [f"{run} is finished at step 6; train.init={run} starts another run from it"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["step", "_evaluate", "_save"])
def test_a_signal_at_any_moment_saves_and_ends(
    corpus: Corpus, run: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, moment: str
) -> None:
    """In the middle of a step; after its evaluation, when nothing else would be saved; while a save begins."""
    config = corpus.config("gpt", "save.every=4", "train.eval_every=0")
    whole = fit(run.with_name("whole"), config)
    made, record = trainer(run, config)
    inner = getattr(made, moment)

    def interrupted(*arguments: Any) -> Any:
        result = inner(*arguments)
        if made.progress.step == (1 if moment == "step" else 2 if moment == "_evaluate" else 4):
            os.kill(os.getpid(), number)
        return result

    monkeypatch.setattr(made, moment, interrupted)
    before = signal.getsignal(number)
    made.fit()
    assert signal.getsignal(number) is before and made.stopped_by == number
    step = max(record.steps)
    assert step == (4 if moment == "_save" else 2) and Checkpointer(RunFolder(run)).latest == step
    assert f"stopped by {number.name}; saved step {step}. Continue with: phalanx train {run}" in record.notes
    assert record.steps | fit(run, config).steps == whole.steps


def test_a_second_ctrl_c_ends_at_once(corpus: Corpus, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, record = trainer(run, corpus.config("gpt", *QUIETLY))
    inner = made.layout.backward

    def interrupted(*arguments: Any) -> Any:
        if made.progress.step == 1:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return inner(*arguments)

    monkeypatch.setattr(made.layout, "backward", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made.fit()
    assert list(record.steps) == [1]


@pytest.mark.parametrize("asynchronous", ["true", "false"])
def test_a_full_disk_is_one_line_and_the_earlier_checkpoint_is_whole(
    corpus: Corpus, run: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: str
) -> None:
    config = corpus.config("gpt", "train.eval_every=0", "save.every=2", f"save.asynchronous={asynchronous}")
    whole = fit(run.with_name("whole"), config)
    made, record = trainer(run, config)
    inner = made.step

    def filling(step: int) -> None:
        inner(step)
        if step == 3:
            assert made.checkpointer
            made.checkpointer.wait()  # step 2's checkpoint has room
            monkeypatch.setattr(os, "fsync", _full)

    monkeypatch.setattr(made, "step", filling)
    with pytest.raises(InputError, match=r"step-000000[46] was not saved: No space left on device"):
        made.fit()
    monkeypatch.setattr(os, "fsync", lambda _: None)
    assert Checkpointer(RunFolder(run)).latest == 2
    again = fit(run, config)
    assert {1: record.steps[1], 2: record.steps[2]} | again.steps == whole.steps


def _full(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_run_in_use_is_refused(corpus: Corpus, run: Path) -> None:
    folder = RunFolder.create(run, corpus.config("gpt"), corpus.tokenizer("gpt").json())
    with folder.lock(), pytest.raises(InputError, match=f"{run} is in use by process {os.getpid()}"):
        train(str(run), quiet=True)
