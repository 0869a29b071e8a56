"""What tests share: where the large data lies, and one thread a process: tests run side by side, and threads that wait
for each other on a busy core take three times as long."""

import gc
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for the processes that tests start


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data, from PHALANX_DATA or beside the repository; tests that want it skip without it."""
    folder = Path(os.environ.get("PHALANX_DATA", Path(__file__).parents[2] / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set PHALANX_DATA")
    return folder


# Whoever imports one of these, or a file of the tests that does, starts processes.
STARTERS = ("subprocess", "multiprocessing")


def pytest_collection_finish() -> None:
    """What all tests have imported by now is no garbage: the collector need not look at it again and again."""
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark with `processes` the tests that start some, by themselves or by a fixture: `make check` leaves them out."""
    for item in items:
        if isinstance(item, pytest.Function) and any(map(_starts, _files(item))):
            item.add_marker(pytest.mark.processes)


def _files(test: pytest.Function) -> Iterator[str]:
    """The modules of a test and of its fixtures."""
    yield test.module.__name__
    for definitions in test._fixtureinfo.name2fixturedefs.values():
        yield definitions[-1].func.__module__


@cache
def _starts(name: str) -> bool:
    """Whether a module of the tests imports what starts processes, itself or by another one."""
    for value in list(vars(sys.modules[name]).values()):
        source = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if not isinstance(source, str) or source == name:
            continue
        if source.startswith(STARTERS) or (source.startswith("tests.") and _starts(source)):
            return True
    return False
