"""docs/extending.md shows the code that the tests of strangers run, and its commands are possible."""

import re
from pathlib import Path

import pytest

STRANGERS = Path(__file__).parents[1] / "strangers"
PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_there_is_code() -> None:
    assert len(BLOCKS) == 7


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: re.findall(r"class (\w+)", block)[-1])
def test_the_code_is_that_of_the_tests(block: str) -> None:
    assert any(block in file.read_text(encoding="utf-8") for file in STRANGERS.glob("*.py"))
    assert len(block.splitlines()) < 60
