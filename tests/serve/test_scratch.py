"""Temporary folders of workers: whose server is gone, goes at the next start."""

import os
import tempfile
from pathlib import Path

import pytest

from phalanx.serve.scratch import YOUNG, Scratch, sweep


def test_what_a_killed_server_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    held, left, young = Scratch(), Scratch(), Scratch()
    for scratch in (left, young):  # as the kernel does when their process ends
        os.close(scratch.lock)
    for scratch in (held, left):
        Path(scratch.path, "model").write_text("weights")
        before = Path(scratch.path).stat().st_mtime - 2 * YOUNG
        os.utime(scratch.path, (before, before))

    sweep()
    assert sorted(map(str, tmp_path.iterdir())) == sorted([held.path, young.path])
    held.remove()
    held.remove()
    assert not Path(held.path).exists()
