"""docs/parallelism.md: its layouts are possible, its pictures are there, and one step can be read in 1,500 lines."""

import ast
import re
import shlex
from pathlib import Path

import pytest

import phalanx
from phalanx import recipe
from phalanx.train.layouts import processes_of
from phalanx.train.resolve import Target, resolve

PAGE = Path(__file__).parents[2] / "docs" / "parallelism.md"
TEXT = PAGE.read_text(encoding="utf-8")
MOST = 1500  # lines to read

READING = re.findall(r"^\| `([\w/]+\.py)`(?:: (.+?))? \| (\d+) \|", TEXT, re.MULTILINE)


def lines(file: str, names: str) -> int:
    """Of the definitions `names` of a file, decorators and docstrings included, but neither blank lines nor comments,
    which make reading easier, not longer; or of the whole file.
    """
    text = (Path(phalanx.__file__).parent / file).read_text(encoding="utf-8").splitlines()
    if not names:
        return len(text)
    spans = [_span(ast.parse("\n".join(text)), name.split(".")) for name in re.findall(r"`([\w.]+)`", names)]
    read = [line.strip() for first, last in spans for line in text[first - 1 : last]]
    return len([line for line in read if line and not line.startswith("#")])


def _span(scope: ast.AST, path: list[str]) -> tuple[int, int]:
    """The first and the last line of a definition."""
    for name in path:
        found = [node for node in ast.iter_child_nodes(scope) if getattr(node, "name", "") == name]
        assert found, f"{'.'.join(path)} is gone"
        (scope,) = found
    assert isinstance(scope, ast.FunctionDef | ast.ClassDef) and scope.end_lineno
    return min([scope.lineno, *(each.lineno for each in scope.decorator_list)]), scope.end_lineno


def test_one_step_is_short_reading() -> None:
    assert len(READING) > 20
    assert sum(lines(file, names) for file, names, _ in READING) <= MOST


@pytest.mark.parametrize(("file", "names", "told"), READING, ids=[file for file, _, _ in READING])
def test_the_numbers_are_right(file: str, names: str, told: str) -> None:
    assert lines(file, names) == int(told)


def test_the_sum_is_right() -> None:
    (told,) = re.findall(r"\*\*in all\*\* \| \*\*([\d,]+)\*\*", TEXT)
    assert int(told.replace(",", "")) == sum(int(count) for *_, count in READING)


@pytest.mark.parametrize("page", [PAGE, PAGE.parents[1] / "README.md"], ids=["parallelism", "README"])
def test_whole_files_are_told_as_well(page: Path) -> None:
    """As those of other programs are counted; their lines to 5 %, as they change with every line beside the step."""
    (files, told), *_ = re.findall(r"(\d+)(?: files)? of some ([\d,]+) lines", page.read_text(encoding="utf-8"))
    read = {file for file, _, _ in READING}
    assert int(files) == len(read)
    assert int(told.replace(",", "")) == pytest.approx(sum(lines(file, "") for file in read), rel=0.05)


def test_pictures_and_links_are_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert len(links) == 10
    assert [link for link in links if not (PAGE.parent / link).exists()] == []


def commands() -> list[str]:
    blocks = re.findall(r"^```\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("command", commands())
def test_the_layouts_are_possible(command: str) -> None:
    program, verb, name, *overrides = shlex.split(command, comments=True)
    assert (program, verb) in {("phalanx", "train"), ("phalanx", "check")}
    config = recipe.load(name, overrides)
    count = processes_of(config.layout)
    assert count > 1
    assert processes_of(resolve(config, Target(count)).layout) == count
