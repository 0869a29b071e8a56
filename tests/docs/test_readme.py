"""The README's commands are run, as they stand."""

import lzma
import re
import shlex
import sys
from pathlib import Path

import pytest

from phalanx import cli
from phalanx.quickstart.plan import NOVELS

README = Path(__file__).parents[2] / "README.md"

SMALLER = ["data.sequence=32", "model.layers=1"]


def shell_blocks() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_names_the_two_commands_first():
    assert [block.strip() for block in shell_blocks()[:2]] == ["make quickstart", "make test"]


@pytest.mark.slow
def test_five_lines_train_on_own_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder with mytext/, one after the other, as `phalanx` runs them; the model alone is made smaller."""
    (tmp_path / "mytext").mkdir()
    text = lzma.decompress((NOVELS / "Burnett_Lord_1886.txt.xz").read_bytes())
    (tmp_path / "mytext" / "book.txt").write_bytes(text[:150_000])
    monkeypatch.chdir(tmp_path)
    lines = shell_blocks()[2].splitlines()
    assert len(lines) == 5
    for line in lines:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", shlex.split(line) + (SMALLER if " train gpt-tiny " in line else []))
        assert sys.argv[0] == "phalanx"
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code, line
    assert capsys.readouterr().out.startswith("Once upon a time")
    assert (tmp_path / "runs/my/report.html").exists()
