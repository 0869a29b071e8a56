"""A run may stop on one layout and go on, on others: the curve is the one that never stopped."""

from pathlib import Path

from phalanx.run.branch import Branch
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from tests.layouts.conftest import Alone
from tests.layouts.curves import Curve, curve
from tests.layouts.pool import Pool
from tests.layouts.test_curves import LAYOUTS, TOLERANCE
from tests.train.runs import Corpus

SITTINGS = ["zero3 tp2", "pp2 tp2", "dp2 cp2 tp2", "pp3", "zero3 tp2"]
STEPS = 3  # of each
SETTINGS = ["model.layers=3", "optim.schedule=constant"]


def sitting(folder: Path, run: Path, stop: int, *words: str) -> Curve:
    """Go on to step `stop`, and save there."""
    return curve(folder, "bert", *SETTINGS, f"save.every={STEPS}", f"train.steps={stop}", *words, run=run)


def gpt(folder: Path, run: Path, *words: str) -> Curve:
    """Train a GPT in a folder, or go on there."""
    return curve(folder, "gpt", *words, run=run)


def test_a_run_goes_on_in_other_layouts(pool: Pool, alone: Alone, corpus: Corpus, tmp_path: Path) -> None:
    whole = alone("bert", *SETTINGS, f"train.steps={STEPS * len(SITTINGS)}")
    layouts = {**LAYOUTS, "pp3": (3, ["layout.pp=3", "layout.micro_batch=2"])}
    losses: list[float] = []
    for number, name in enumerate(SITTINGS, start=1):
        processes, words = layouts[name]
        losses += pool.run(processes, sitting, corpus.folder, tmp_path, number * STEPS, *words)[0].losses
        assert (tmp_path / "checkpoints" / f"step-{number * STEPS:07d}").is_dir()
    assert len(losses) == len(whole.losses) == STEPS * len(SITTINGS)
    assert max(abs(a - b) for a, b in zip(losses, whole.losses, strict=True)) < TOLERANCE


def test_a_stable_run_decays_on_another_layout(pool: Pool, alone: Alone, corpus: Corpus, tmp_path: Path) -> None:
    """From the checkpoint of one process, on four: the curve of one process whose decay was planned."""
    schedule = "optim.schedule=wsd", "optim.min_lr=0", "save.every=4"
    decay = "train.steps=8", "optim.decay_steps=4"
    whole = alone("gpt", *schedule, *decay)

    pool.run(1, gpt, corpus.folder, tmp_path / "stable", *schedule, "train.steps=4")
    stable = RunFolder(tmp_path / "stable")
    Branch(stable, *Checkpointer(stable).until(4)).begin(RunFolder(tmp_path / "decayed"))
    processes, words = LAYOUTS["pp2 tp2"]
    decayed = pool.run(processes, gpt, corpus.folder, tmp_path / "decayed", *schedule, *decay, *words)[0]
    assert len(decayed.losses) == 4
    assert max(abs(a - b) for a, b in zip(decayed.losses, whole.losses[4:], strict=True)) < TOLERANCE
    assert abs(decayed.valid[-1] - whole.valid[-1]) < TOLERANCE
