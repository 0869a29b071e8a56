"""What tests share: where the large data lies, and one thread a process: tests run side by side, and threads that wait
for each other on a busy core take three times as long."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for the processes that tests start


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data, from PHALANX_DATA or beside the repository; tests that want it skip without it."""
    folder = Path(os.environ.get("PHALANX_DATA", Path(__file__).parents[2] / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set PHALANX_DATA")
    return folder
