"""The tree at hand computes what the fixtures hold."""

import pytest

from tests.unchanged.differences import lines
from tests.unchanged.exact import PARTS, fixture, text

MARKS = {"weights": pytest.mark.numerics}


@pytest.mark.parametrize("part", [pytest.param(part, marks=MARKS.get(part, ())) for part in PARTS])
def test_as_it_was(part: str) -> None:
    before = fixture(part).read_text(encoding="utf-8")
    now = text(part)
    assert now == before, (
        f"{lines(before, now)}; if that is meant, python -m tests.unchanged --write, and review the diff"
    )
