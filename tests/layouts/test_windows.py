"""Windows of attention on layouts that divide a sequence: the same curve, and messages to the ranks that they reach."""

import pytest

from tests.layouts.conftest import Alone
from tests.layouts.curves import curve, farthest
from tests.layouts.pool import Pool
from tests.layouts.test_curves import LAYOUTS, TOLERANCE
from tests.train.runs import Corpus

DOCUMENTS = "data.stop_at_documents=true"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cp2", ()), ("cp2 ring", ()), ("cp4 ring", ()), ("cp2 tp2 ring", ()),
        ("cp2", (DOCUMENTS,)), ("cp2 ring", (DOCUMENTS,)), ("cp4 ring", (DOCUMENTS,)),
    ],
)  # fmt: skip
def test_one_curve(pool: Pool, corpus: Corpus, alone: Alone, name: str, words: tuple[str, ...]) -> None:
    """In every second block a token sees five: the ring passes over ranks that no window reaches."""
    processes, layout = LAYOUTS[name]
    ranks = pool.run(processes, curve, corpus.folder, "windows", *layout, *words)
    assert farthest(ranks[0], alone("windows", *words)) < TOLERANCE
    assert all(farthest(other, ranks[0]) == 0 for other in ranks[1:])
    assert farthest(ranks[0], alone("windows", "model.window=0", *words)) > 10 * TOLERANCE
