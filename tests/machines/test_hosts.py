"""Three hosts train under torchrun; one is lost; those that are left go on, and the curve is that of one process."""

from pathlib import Path

import pytest

from tests.machines.hosts import refused
from tests.machines.lose import lose
from tests.train.runs import Corpus, make_corpus

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """One text as sets of tokens, where hosts can be made."""
    if reason := refused():
        pytest.skip(reason)
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def test_torchrun_goes_on_without_a_host_that_died(corpus: Corpus, tmp_path: Path) -> None:
    assert lose("kill", "gamma", corpus, tmp_path) < TOLERANCE


def test_the_first_host_is_cut_off_and_the_others_are_started_again(corpus: Corpus, tmp_path: Path) -> None:
    assert lose("cut", "alpha", corpus, tmp_path) < TOLERANCE
