"""What is beside the Python files goes into the package."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_nothing_is_left_behind() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["phalanx"]
    package = ROOT / "src" / "phalanx"
    files = [path.relative_to(package) for path in package.rglob("*") if path.is_file()]
    others = [str(path) for path in files if path.suffix not in (".py", ".pyc")]
    assert len(others) > 30
    assert [name for name in others if not any(fnmatch(name, pattern.replace("**/", "")) for pattern in patterns)] == []
