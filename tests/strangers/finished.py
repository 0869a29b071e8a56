"""Runs of what comes from outside, in this process."""

from pathlib import Path

from phalanx.tasks.run import train
from tests.train.runs import Corpus


def finished(corpus: Corpus, folder: Path, *words: str) -> Path:
    """Return a run of four steps in a new folder, with a checkpoint and an evaluation after each second."""
    steps = "train.steps=4", "save.every=2", "train.eval_every=2"
    assert train("gpt-tiny", [*corpus.words("gpt"), *words, *steps], folder / "run", quiet=True) == 0
    return folder / "run"
