"""One pool of processes, one text, and the curves of one process, each computed once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.layouts.curves import Curve, curve
from tests.layouts.pool import Pool
from tests.train.runs import Corpus, make_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """One text as sets of tokens."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    """Eight processes."""
    with Pool() as pool:
        yield pool


class Alone:
    """Curves of one process by their settings."""

    def __init__(self, pool: Pool, folder: Path) -> None:
        self.pool, self.folder = pool, folder
        self.known: dict[tuple[str, ...], Curve] = {}

    def __call__(self, family: str, *words: str) -> Curve:
        """The curve of one process."""
        key = (family, *words)
        if key not in self.known:
            (self.known[key],) = self.pool.run(1, curve, self.folder, *key)
        return self.known[key]


@pytest.fixture(scope="session")
def alone(pool: Pool, corpus: Corpus) -> Alone:
    """One process's curve by family and settings."""
    return Alone(pool, corpus.folder)
