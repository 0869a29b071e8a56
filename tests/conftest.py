"""What tests share: where the large data lies, and one thread a process: tests run side by side, and threads that wait
for each other on a busy core take three times as long."""

import gc
import multiprocessing.process
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as the command line does
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it starts with & ignore it, and all below
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for the processes that tests start
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # where there are two: one that waits leaves the core to others
# Where bytecode is not kept, every process of the tests would compile the package and the tests again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data, from PHALANX_DATA or beside the repository; tests that want it skip without it."""
    folder = Path(os.environ.get("PHALANX_DATA", Path(__file__).parents[2] / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no data at {folder}; set PHALANX_DATA")
    return folder


# The tests of each folder here share a fixture that is dear, a server of several models: one process runs them all.
TOGETHER = ("tests/serve/",)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files go to the processes whole, as by --dist loadfile; some folders too."""
    from xdist.scheduler import LoadFileScheduling

    class Whole(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next(filter(nodeid.startswith, TOGETHER), super()._split_scope(nodeid))

    return Whole(config, log) if config.getvalue("dist") == "loadfile" else None


# Whoever imports one of these, or a file of the tests that does, starts processes.
STARTERS = ("subprocess", "multiprocessing")


def pytest_collection_finish() -> None:
    """What all tests have imported by now is no garbage: the collector need not look at it again and again."""
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark with `processes` the tests whose file, or that of a fixture of theirs, imports what starts some. Those that
    start them through Phalanx are marked by hand.
    """
    starters = _starters()
    for item in items:
        if isinstance(item, pytest.Function) and not starters.isdisjoint(_files(item)):
            item.add_marker(pytest.mark.processes)


def _files(test: pytest.Function) -> Iterator[str]:
    """The modules of a test and of its fixtures."""
    yield test.module.__name__
    for definitions in test._fixtureinfo.name2fixturedefs.values():
        yield definitions[-1].func.__module__


def _starters() -> set[str]:
    """The modules of the tests that import what starts processes, themselves or by others."""
    files = {name: module for name, module in sys.modules.items() if name.startswith("tests.") and name != __name__}
    imported = {name: set(_imported(module)) for name, module in files.items()}
    found = {name for name, sources in imported.items() if any(source.startswith(STARTERS) for source in sources)}
    while more := {name for name, sources in imported.items() if sources & found} - found:
        found |= more
    return found


def _imported(module: ModuleType) -> Iterator[str]:
    """The modules that the names in a module come from."""
    for value in list(vars(module).values()):
        source = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(source, str) and source != module.__name__:
            yield source


@pytest.fixture(autouse=True)
def _no_process_unmarked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that is not marked cannot start a Python process, but for torch's compiler; programs in C it can."""
    if request.node.get_closest_marker("processes"):
        return

    def refuse(*words: Any, **_: Any) -> None:
        raise AssertionError(f"{request.node.name} starts a process: mark it with pytest.mark.processes")

    start = subprocess.Popen.__init__

    def guarded(self: Any, words: Any, *rest: Any, **named: Any) -> None:
        program, *rest_of_words = [words] if isinstance(words, str | os.PathLike) else words
        compiling = any("inductor" in str(word) for word in rest_of_words)
        if Path(program).name.startswith("python") and not compiling:
            refuse()
        start(self, words, *rest, **named)

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
    monkeypatch.setattr(subprocess.Popen, "__init__", guarded)
