"""The README's commands are run, as they stand."""

import lzma
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from phalanx.quickstart.plan import NOVELS

README = Path(__file__).parents[2] / "README.md"


def shell_blocks() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_names_the_two_commands_first():
    assert [block.strip() for block in shell_blocks()[:2]] == ["make quickstart", "make test"]


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []


@pytest.fixture(scope="module")
def own_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with mytext/, where the five lines have run."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "mytext").mkdir()
    text = lzma.decompress((NOVELS / "Burnett_Lord_1886.txt.xz").read_bytes())
    (folder / "mytext" / "book.txt").write_bytes(text)
    return folder


def test_five_lines_train_on_own_text(own_text):
    lines = shell_blocks()[2].splitlines()
    assert len(lines) == 5
    for line in lines:
        verb, *arguments = shlex.split(line)
        assert verb == "phalanx"
        done = subprocess.run(
            [sys.executable, "-m", "phalanx", *arguments], cwd=own_text, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert done.stdout.startswith("Once upon a time")
    assert (own_text / "runs/my/report.html").exists()
