"""A job is done by each tree in a folder of its own, and its failure is told."""

from pathlib import Path

import pytest

from tests.unchanged.jobs import Job
from tests.unchanged.sides import Failed, Pair, Side, make


def pair(folder: Path) -> Pair:
    """Two trees, each with a file that says which it is."""
    sides = [Side(folder / name, folder / name / "jobs", folder / "cache") for name in ("old", "new")]
    for side in sides:
        (side.tree / "src").mkdir(parents=True)
        (side.tree / "src" / "which").write_text(side.tree.name)
    return Pair(*sides)


WHICH = 'cat "${PYTHONPATH%%:*}/which"'  # each job has its own tree's sources first


def test_each_tree_does_it(tmp_path: Path) -> None:
    both = pair(tmp_path)
    assert not both.differences(Job("same", "echo a > file; pwd > told", ("file", "output.txt")))
    assert both.differences(Job("other", WHICH)) == {"output.txt": "line 1: 'old' is now 'new'"}


def test_failures(tmp_path: Path) -> None:
    both = pair(tmp_path)
    wrong = Job("wrong", f'test "$({WHICH})" = old || {{ echo why >&2; exit 3; }}')
    assert both.differences(wrong) == {"exit code": "exit code 3: why"}
    with pytest.raises(Failed, match="never: exit code 1: oh in the older tree"):
        both.differences(Job("never", "echo oh >&2; false; true"))
    with pytest.raises(Failed, match="no such commit"):
        make("0123456789", tmp_path)


def test_what_is_done_is_kept_as_long_as_it_is_the_same(tmp_path: Path) -> None:
    side = pair(tmp_path).old
    for script, times in ("echo a >> ../times", 1), ("echo a >> ../times", 1), ("echo b >> ../times", 2):
        assert not side.do(Job("once", script))
        assert len((side.folder / "times").read_text().splitlines()) == times
    assert "exit code" in side.do(Job("fails", "false")) and "exit code" in side.do(Job("fails", "false"))
