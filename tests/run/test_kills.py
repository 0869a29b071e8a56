"""Checkpoints stay whole on a full disk and after any kill."""

import errno
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import pytest
import torch

from phalanx.errors import InputError
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from tests.run.states import fill_of, make_folder, make_state, steps


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
            time.sleep(0.5)
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


def _save_without_end(path: Path, done: "Synchronized[int]") -> None:
    torch.set_num_threads(1)
    saver, state = Checkpointer(make_folder(path)), make_state(0)
    step = saver.load(state).step if saver.latest is not None else 0
    while True:
        step += 1
        saver.save(step, make_state(step), loss=1 / step if step % 3 else 2.0)
        saver.wait()
        done.value = step


def test_thirty_kills_at_random_moments(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["phalanx.run.checkpoint"])
    done = context.Value("q", 0)
    folder, cut_short = make_folder(tmp_path), 0
    for _ in range(30):
        known = done.value
        process = context.Process(target=_save_without_end, args=(tmp_path, done))
        process.start()
        while done.value == known:
            assert process.is_alive()
            time.sleep(0.001)
        time.sleep(random.uniform(0, 0.15))
        process.kill()
        process.join()
        cut_short += any(name.endswith((".partial", ".old")) for name in steps(folder))
        for best in False, True:
            restored = Checkpointer(folder).load(state := make_state(0), best=best)
            assert restored.notes == () and fill_of(state) == restored.step
            assert best or restored.step in {done.value, done.value + 1}
    assert cut_short > 0, "no kill struck during a save: this test proved nothing"
