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
    rows = [line for line in text.splitlines() if re.match(r"\| (?!what was found|was \||`)", line)]
    assert len(rows) > 40
    for row in rows:
        named = re.findall(r"`([\w./]*\.py)?(?:::(test_\w+))?`", row.split("|")[-2])
        assert named, row
        file = ""
        for other, test in named:
            file = other or file
            source = (ROOT / "tests" / file).read_text(encoding="utf-8")
            assert re.search(rf"^ *(?:async )?def {test}\(", source, re.MULTILINE) or not test, f"{file} has no {test}"


def test_the_architecture_names_every_room() -> None:
    """Each folder has a row, whose files are there; each module beside the folders is named."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]*) \| [^|]* \| ([\w/., ]+\.py) \|$", text, re.MULTILINE)
    source = ROOT / "src" / "phalanx"
    assert {f"`{folder.parent.name}/`" for folder in source.glob("*/__init__.py")} <= {room for room, _ in rows}
    for room, files in rows:
        folder = source / room.strip("`") if room.endswith("/`") else source
        assert all((folder / file).is_file() for file in files.split(", ")), room
    for path in source.glob("[!_]*.py"):
        assert f"`{path.name}`" in text, path
