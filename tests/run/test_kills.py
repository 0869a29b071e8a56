"""Checkpoints stay whole on a full disk and after any kill."""

import concurrent.futures
import errno
import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from phalanx.errors import InputError
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from tests.run.states import fill_of, make_folder, make_state, steps
from tests.train.processes import die_at_files, in_fresh_process


@pytest.mark.parametrize("asynchronous", [True, False])
def test_full_disk_is_one_line_and_costs_one_checkpoint(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    saver = Checkpointer(folder, asynchronous=asynchronous)
    saver.save(1, make_state(1), 1.0)
    saver.wait()
    line = r"step-0000002 was not saved: No space left on device: it takes .* GiB, .* GiB are free"

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        if asynchronous:
            saver.save(2, make_state(2))
            assert saver._writing
            concurrent.futures.wait([saver._writing])  # it has failed, and nobody has been told yet
        else:
            with pytest.raises(InputError, match=line):
                saver.save(2, make_state(2))
    assert steps(folder) == ["best", "step-0000001"]
    if asynchronous:
        with pytest.raises(InputError, match=line):
            saver.save(3, make_state(3))
    else:
        saver.save(3, make_state(3))
    saver.wait()
    assert steps(folder) == ["best", "step-0000001", "step-0000003"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    (path := tmp_path / "disk").mkdir()
    if os.geteuid() != 0 or os.system(f"mount -t tmpfs -o size=200k none {path} 2>/dev/null"):
        pytest.skip("no right to mount a small disk; the same fault is injected above")
    yield path
    os.system(f"umount {path}")


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    folder = make_folder(small_disk)
    saver = Checkpointer(folder, keep=1, asynchronous=False)
    for step in 1, 2, 3:  # two at a time
        saver.save(step, make_state(step))
    (small_disk / "other").write_bytes(bytes(100 << 10))
    with pytest.raises(InputError, match="No space left on device"):
        saver.save(4, make_state(4))
    assert steps(folder) == ["step-0000003"]
    saver.load(state := make_state(0))
    assert fill_of(state) == 3


def _save(path: Path, step: int, fill: float, point: int) -> None:
    """Save a checkpoint and wait for it; be killed at the `point`-th thing that is done to a file there, 0: never."""
    saver, points = Checkpointer(make_folder(path)), itertools.count(1)
    die_at_files(path, lambda: next(points) == point)
    saver.save(step, make_state(fill), loss=1 / fill if fill % 3 else 2.0)
    saver.wait()


def _kill_everywhere(path: Path, again: bool) -> tuple[int, int]:
    """How many kills a save met with, each at the next point of it, until one was not killed; how many struck while
    something was half done.
    """
    folder, fill, cut_short = make_folder(path), 1, 0
    _forked(lambda: _save(path, 1, 1.0, 0))
    for kills in itertools.count():
        step = 1 if again else fill + 1
        ended = _forked(lambda step=step, fill=fill, kills=kills: _save(path, step, fill + 1.0, kills + 1))
        cut_short += any(name.endswith((".partial", ".old")) for name in steps(folder))
        for best in False, True:
            restored = Checkpointer(folder).load(state := make_state(0), best=best)
            assert restored.notes == ()
            assert best or fill_of(state) in {fill, fill + 1}
            assert again or fill_of(state) == restored.step
        Checkpointer(folder).load(state)
        fill = int(fill_of(state))
        if not ended:
            return kills, cut_short
        assert ended == -signal.SIGKILL
    raise AssertionError


def _forked(action: Callable[[], None]) -> int:
    """How a copy of this process ended that did something."""
    if number := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
    try:
        action()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("again", [False, True])
def test_a_kill_at_any_point_of_a_save_leaves_a_whole_checkpoint(tmp_path: Path, again: bool) -> None:
    """Of a new step, and of one that is there already."""
    kills, cut_short = in_fresh_process(_kill_everywhere, tmp_path, again)
    assert kills > 10 and cut_short > 5
