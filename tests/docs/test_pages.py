"""The papers name only what is there: files that pages link to, the changelog's tests, commands; and all modules."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_tests_that_the_changelog_names_are_there() -> None:
    """In the last column, as `file::test`, or `::test` of the file named before it in the row."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| (?!what was found)", line)]
    assert len(rows) > 40
    for row in rows:
        named = re.findall(r"`([\w./]*\.py)?(?:::(test_\w+))?`", row.split("|")[-2])
        assert named, row
        file = ""
        for other, test in named:
            file = other or file
            source = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert re.search(rf"^ *(?:async )?def {test}\(", source, re.MULTILINE) or not test, f"{file} has no {test}"


def test_the_architecture_names_every_module() -> None:
    """Those of a folder within the lines that begin with its name."""
    block = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("src/phalanx/\n")[1].split("```")[0]
    folders = dict(re.findall(r"^  (\w+)/ +((?:.*\n)(?: {12,}.*\n)*)", block, re.MULTILINE))
    source = ROOT / "src" / "phalanx"
    for path in source.rglob("*.py"):
        folder, *_, name = path.relative_to(source).with_suffix("").parts if path.parent != source else ("", path.name)
        assert name.startswith("__") or re.search(rf"\b{name}\b", folders[folder] if folder else block), path
