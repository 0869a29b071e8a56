"""A run folder to save checkpoints in."""

from pathlib import Path

import pytest

from phalanx.run.folder import RunFolder
from tests.run.states import make_folder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return make_folder(tmp_path)
