"""What tests share: where the large data lies."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data, from PHALANX_DATA or beside the repository; tests that want it skip without it."""
    folder = Path(os.environ.get("PHALANX_DATA", Path(__file__).parents[2] / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set PHALANX_DATA")
    return folder
