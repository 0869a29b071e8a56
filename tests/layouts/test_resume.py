"""A run may stop on one layout and go on, on others: the curve is the one that never stopped."""

from pathlib import Path

from tests.layouts.conftest import Alone
from tests.layouts.curves import Curve, curve
from tests.layouts.pool import Pool
from tests.layouts.test_curves import MICRO, TOLERANCE
from tests.train.runs import Corpus

SITTINGS = [  # steps done when it ends, processes, layout
    (4, 4, ["layout.tp=2", "layout.shard=zero3"]),
    (8, 2, ["layout.pp=2", MICRO]),
    (12, 1, []),
]


def sitting(folder: Path, run: Path, stop: int, *words: str) -> Curve:
    """Go on to step `stop`, saving every four steps."""
    return curve(folder, "bert", "optim.schedule=constant", "save.every=4", f"train.steps={stop}", *words, run=run)


def test_a_run_goes_on_in_other_layouts(pool: Pool, alone: Alone, corpus: Corpus, tmp_path: Path) -> None:
    whole = alone("bert", "optim.schedule=constant")
    losses: list[float] = []
    for stop, processes, words in SITTINGS:
        losses += pool.run(processes, sitting, corpus.folder, tmp_path, stop, *words)[0].losses
        assert (tmp_path / "checkpoints" / f"step-{stop:07d}").is_dir()
    assert len(losses) == 12
    assert max(abs(a - b) for a, b in zip(losses, whole.losses, strict=True)) < TOLERANCE
