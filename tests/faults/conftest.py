"""What the tests of faults among processes share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.ranks import Ranks
from tests.train.runs import Corpus, make_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """One text as sets of tokens."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Ranks]:
    """Processes of one run."""
    made = Ranks(tmp_path)
    yield made
    made.kill()
