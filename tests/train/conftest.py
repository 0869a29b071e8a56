"""What the tests of training share: one tiny text."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.train.runs import Corpus, hurry, make_corpus


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """One text as sets of tokens."""
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="package", autouse=True)
def _quick() -> Iterator[None]:
    """One thread, as the models are tiny and the machine is shared; and no waiting for disks, as no power will fail."""
    threads, fsync = torch.get_num_threads(), os.fsync
    hurry()
    yield
    torch.set_num_threads(threads)
    os.fsync = fsync


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Where a run may go."""
    return tmp_path / "run"
