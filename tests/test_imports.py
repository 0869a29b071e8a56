"""Imports run one way, and the light modules stay light: docs/architecture.md over the syntax trees."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import phalanx

ROOT = Path(phalanx.__file__).parent

# What each folder, and each module beside them, may import of the others.
GROUND = {"errors"}
FILES = {"cache", "strict_json", "foreign", "hub", "durable", "units", "processor"}
CONFIGURED = GROUND | FILES | {"registry", "section", "optimizer", "model_config", "config", "spec"}
MODEL = CONFIGURED | {"mixing", "nn", "heads", "models", "values", "owners", "keys", "recipe"}
MAY_IMPORT = {
    "errors": set(),
    "cache": set(),
    "strict_json": set(),
    "mixing": set(),
    "parent": set(),
    "section": set(),
    "processor": set(),
    "spec": set(),
    "score": set(),
    "durable": GROUND,
    "units": GROUND,
    "registry": GROUND,
    "foreign": GROUND | {"strict_json"},
    "hub": GROUND | {"foreign", "strict_json"},
    "values": {"foreign"},
    "runtime": GROUND | {"parent", "processor", "units"},
    "optimizer": GROUND | {"registry", "section", "spec"},
    "model_config": GROUND | {"registry", "section", "spec"},
    "config": GROUND | {"registry", "section", "spec", "optimizer", "model_config"},
    "nn": GROUND | {"mixing", "registry", "spec"},
    "data": CONFIGURED | {"mixing"},
    "heads": GROUND | {"registry", "spec", "nn", "data", "score"},
    "models": CONFIGURED | {"nn", "heads"},
    "owners": CONFIGURED | {"values"},
    "keys": CONFIGURED | {"values", "owners"},
    "recipe": CONFIGURED | {"values", "owners", "keys", "models"},
    "precision": CONFIGURED | {"nn", "models"},
    "parallel": CONFIGURED | {"nn"},
    "run": MODEL | {"precision", "runtime"},
    "report": GROUND | {"durable", "units", "recipe", "run"},
    "convert": MODEL | {"run", "data"},
    "corpus": GROUND | {"durable", "strict_json", "parent", "units", "data", "score"},
    "train": MODEL | {"precision", "parallel", "runtime", "run", "data"},
    "infer": MODEL | {"precision", "run", "data", "score", "convert"},
    "serve": MODEL | {"parent", "precision", "run", "data", "infer"},
    "tasks": MODEL | {"precision", "parallel", "runtime", "run", "data", "train", "infer", "score"},
    "launch": MODEL | {"precision", "parallel", "runtime", "run", "data", "train", "infer", "tasks"},
    "plan": MODEL | {"precision", "parallel", "runtime", "run", "train"},
    "measure": MODEL | {"precision", "parallel", "runtime", "run", "data", "train", "plan"},
    "quickstart": MODEL | {"precision", "parallel", "run", "data", "train", "infer", "tasks", "report"},
}
MAY_IMPORT["cli"] = {*MAY_IMPORT}
MAY_IMPORT["__main__"] = {"cli"}
MAY_IMPORT["__init__"] = set()

# Outside packages that a folder must not touch.
FORBIDDEN = {
    "spec": ("torch",),
    "nn": ("torch.distributed",),
    "models": ("torch.distributed",),
    "data": ("torch",),
    "score": ("torch",),
    "report": ("torch",),
    "corpus": ("torch",),
}

LIGHT = ("phalanx", "phalanx.config", "phalanx.errors", "phalanx.registry", "phalanx.recipe", "phalanx.cli")


def imports(source: str) -> Iterator[str]:
    """Dotted names of everything that a module imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def breaches(folder: str, source: str) -> list[str]:
    """The imports of a module in `folder`, or of the module of that name beside the folders, that the rule forbids."""
    others = MAY_IMPORT.keys() - MAY_IMPORT[folder] - {folder}
    forbidden = [f"phalanx.{other}" for other in others] + [*FORBIDDEN.get(folder, ())]
    return [name for name in imports(source) if any(within(name, package) for package in forbidden)]


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def folder_of(path: Path) -> str:
    """The folder of a module, or the name of one beside the folders."""
    return path.relative_to(ROOT).with_suffix("").parts[0]


def test_every_folder_has_its_rule() -> None:
    assert {folder_of(path) for path in modules()} == MAY_IMPORT.keys()


def test_the_rule_has_no_circle() -> None:
    """So there is an order of floors in which no arrow runs upward."""
    TopologicalSorter(MAY_IMPORT).prepare()


def test_the_picture_is_true() -> None:
    """The floors that docs/architecture.md draws: every folder is there, and imports from lower floors alone."""
    page = (ROOT.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    floors = [line.split() for line in re.findall(r"^ │(.*)│$", page, re.MULTILINE)]
    height = {room: -number for number, floor in enumerate(floors) for room in floor}
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} <= height.keys()
    for path in modules():
        room = folder_of(path)
        others = {name.split(".")[1] for name in imports(path.read_text("utf-8")) if name.startswith("phalanx.")}
        below = (others & height.keys()) - {room}
        assert room not in height or all(height[other] < height[room] for other in below), path


def test_modules_have_no_circle() -> None:
    """Within a folder neither, nor by imports inside functions or for types alone."""
    names = {".".join(("phalanx", *path.relative_to(ROOT).with_suffix("").parts)): path for path in modules()}
    graph = {}
    for name, path in names.items():
        found = {each if each in names else each.rpartition(".")[0] for each in imports(path.read_text("utf-8"))}
        graph[name] = (found & names.keys()) - {name}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    assert breaches(folder_of(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("nn", "from phalanx.models.build import build"),
        ("nn", "from torch import distributed"),
        ("models", "def f():\n    import torch.distributed.checkpoint as dcp"),
        ("data", "import torch"),
        ("data", "from torch import Tensor"),
        ("data", "from phalanx.nn import random"),
        ("run", "from phalanx import train"),
        ("infer", "from phalanx.train.trainer import Trainer"),
        ("train", "from phalanx.tasks.clm import CausalLM"),
        ("tasks", "import phalanx.cli"),
    ],
)
def test_the_rule_bites(folder: str, source: str) -> None:
    assert len(breaches(folder, source)) == 1


def test_the_rule_allows_what_is_right() -> None:
    assert breaches("train", "import torch.distributed\nfrom phalanx.models import build\nimport phalanx.config") == []


def test_light_modules_import_no_torch() -> None:
    heavy = "torch", "numpy", "tokenizers", "matplotlib", "tensorboard", "transformers"
    program = f"import sys, {', '.join(LIGHT)}; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_data_imports_no_torch_at_run_time() -> None:
    names = [
        ".".join(("phalanx", *path.relative_to(ROOT).with_suffix("").parts))
        for path in modules()
        if folder_of(path) == "data" and path.stem != "__init__"
    ]
    program = f"import sys, {', '.join(names)}; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
