"""What a run folder names is imported from where packages are installed, never from the current folder."""

import sys
from pathlib import Path

import pytest

from phalanx.errors import InputError
from phalanx.infer.bundle import load_bundle
from phalanx.run.folder import RunFolder
from tests.convert.folders import config_of, tokenizer_of

CODE = """\
raise RuntimeError("code of a stranger ran")
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose model is in a module beside it, the folder of both being the current one."""
    config = config_of("bert")
    config = config.model_copy(update={"model": config.model.model_copy(update={"family": "a_stranger:Model"})})
    RunFolder.create(tmp_path / "run", config, tokenizer_of("bert").json())
    (tmp_path / "a_stranger.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


@pytest.mark.parametrize("entry", ["", "."])
def test_the_current_folder_is_not_searched(run: Path, monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    monkeypatch.setattr(sys, "path", [entry and str(Path.cwd()), *sys.path])  # as Python puts it first
    before = [*sys.path]
    with pytest.raises(InputError, match=r"'a_stranger:Model' cannot be loaded: .* is not searched"):
        load_bundle(run)
    assert sys.path == before and "a_stranger" not in sys.modules


def test_what_was_put_in_the_path_is(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As PYTHONPATH does, after what Python puts first."""
    monkeypatch.setattr(sys, "path", [str(run), str(Path.cwd()), *sys.path])
    with pytest.raises(InputError, match="code of a stranger ran"):
        load_bundle(run)
