"""Fine-tuning: one curve and the same scores on every layout, whatever is asked of the model."""

import pytest

from tests.layouts.labelled import FORMS, Told, tuned_each
from tests.layouts.pool import Pool
from tests.train.runs import Corpus

TOLERANCE = 1e-4
MODERNBERT = "model.family=modernbert"
LAYOUTS = {
    "tp2": (2, ["layout.tp=2"]),
    "cp2": (2, ["layout.cp=2"]),
    "pp2": (2, ["layout.pp=2"]),
    "cp2 ring": (2, ["layout.cp=2", "layout.context=ring"]),
    "zero3": (2, ["layout.shard=zero3"]),
    "cp2 tp2": (4, ["layout.cp=2", "layout.tp=2"]),
    "dp2 pp2": (4, ["layout.pp=2"]),
}

# Each kind on the first three, and on every other of the rest.
CASES = [
    (kind, name)
    for row, kind in enumerate(FORMS)
    for column, name in enumerate(LAYOUTS)
    if column < 3 or (row + column) % 2
]


@pytest.fixture(scope="session")
def alone(pool: Pool, corpus: Corpus) -> dict[str, Told]:
    """What one process tells of each kind."""
    (told,) = pool.run(1, tuned_each, corpus.folder, list(FORMS))
    return told


@pytest.fixture(scope="session")
def modernbert(pool: Pool, corpus: Corpus) -> dict[str, Told]:
    """The same of a ModernBERT, of kinds that read the mean of all tokens or each of them."""
    (told,) = pool.run(1, tuned_each, corpus.folder, ["classes", "tokens", "span"], MODERNBERT)
    return told


@pytest.mark.parametrize("name", LAYOUTS)
def test_one_curve_and_one_score(pool: Pool, corpus: Corpus, alone: dict[str, Told], name: str) -> None:
    processes, words = LAYOUTS[name]
    kinds = [kind for kind, layout in CASES if layout == name]
    same(pool.run(processes, tuned_each, corpus.folder, kinds, *words)[0], alone)


@pytest.mark.parametrize("name", ["tp2", "cp2 ring", "pp2", "cp2 tp2"])
def test_modernbert(pool: Pool, corpus: Corpus, modernbert: dict[str, Told], name: str) -> None:
    """Windows on both sides, a norm in the head, and the mean of all tokens, of which ranks may have parts."""
    processes, words = LAYOUTS[name]
    same(pool.run(processes, tuned_each, corpus.folder, list(modernbert), MODERNBERT, *words)[0], modernbert)


def same(each: dict[str, Told], alone: dict[str, Told]) -> None:
    """What a layout tells of each kind is what one process tells."""
    for kind, told in each.items():
        expected = alone[kind]
        assert told.losses == pytest.approx(expected.losses, abs=TOLERANCE), kind
        assert told.norms == pytest.approx(expected.norms, rel=TOLERANCE), kind
        assert len(told.valids) == 2
        for mine, theirs in zip(told.valids, expected.valids, strict=True):
            assert mine == pytest.approx(theirs, abs=5e-3), kind  # of scores one near-tie may differ
            assert mine["loss"] == pytest.approx(theirs["loss"], abs=TOLERANCE), kind
