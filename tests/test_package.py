"""What is built to be installed elsewhere: a source distribution with tests and docs, and a wheel that is whole."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import phalanx

ROOT = Path(__file__).parents[1]
PAPERS = {
    "LICENSE", "NOTICE", "CONTRIBUTING.md", "Makefile", "constraints.txt", "pyproject.toml",
    *(path.name for path in ROOT.glob("*.md")),
}  # fmt: skip
FOLDERS = (".ci", "benchmarks", "docs", "src/phalanx", "tests")
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv.pop(1))(sys.argv.pop(1))"
NAME = f"phalanx-{phalanx.__version__}"


def files(folder: Path) -> set[str]:
    """All files below a folder, as paths from it, but for what Python and the tools leave there."""
    passing = ("__pycache__", "_cache", ".egg-info")
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if not any(part.endswith(passing) for part in path.parts)}


def build(kind: str, tree: Path, into: Path) -> Path:
    """A distribution of the project in `tree`, by the build backend alone, in a process since it changes its own."""
    into.mkdir()
    done = subprocess.run([sys.executable, "-c", BUILD, kind, str(into)], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = into.iterdir()
    return built


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("package")
    tree = folder / "tree"
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (*PAPERS, "MANIFEST.in"):
        shutil.copy(ROOT / name, tree)
    with tarfile.open(build("build_sdist", tree, folder / "sdist")) as packed:
        packed.extractall(folder / "unpacked", filter="data")
    return folder / "unpacked" / NAME


@pytest.fixture(scope="module")
def wheel(source: Path) -> zipfile.ZipFile:
    """The wheel that the source distribution builds, as pip does with it."""
    return zipfile.ZipFile(build("build_wheel", source, source.parent / "wheel"))


def test_the_source_distribution_is_the_project(source: Path) -> None:
    assert [name for name in PAPERS if not (source / name).is_file()] == []
    for name in FOLDERS:
        assert files(ROOT / name) == files(source / name)


def test_the_wheel_is_the_package(wheel: zipfile.ZipFile) -> None:
    names = {name for name in wheel.namelist() if not name.startswith(f"{NAME}.dist-info/")}
    assert names == {f"phalanx/{name}" for name in files(ROOT / "src" / "phalanx")}


def test_the_wheel_has_its_licences(wheel: zipfile.ZipFile) -> None:
    meta = Parser().parsestr(wheel.read(f"{NAME}.dist-info/METADATA").decode())
    assert meta["License-Expression"] == "Apache-2.0" and meta["Version"] == phalanx.__version__
    texts = {
        name: wheel.read(f"{NAME}.dist-info/licenses/{name}").decode() for name in meta.get_all("License-File", [])
    }
    assert {"LICENSE", "NOTICE"} < texts.keys()
    assert "Apache License" in texts["LICENSE"]
    vocabularies = "src/phalanx/assets/tokenizers"
    assert "Copyright 2018 The Google AI Language Team Authors" in texts[f"{vocabularies}/LICENSE-BERT"]
    assert "Software Copyright (c) 2019 OpenAI" in texts[f"{vocabularies}/LICENSE-GPT-2"]
    assert b"phalanx = phalanx.cli:main" in wheel.read(f"{NAME}.dist-info/entry_points.txt")
