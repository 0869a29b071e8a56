"""Where figures come from: what a reader of them must know."""

import os
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from phalanx import processor

PACKAGES = (
    "torch", "transformers", "onnxruntime", "openvino", "nncf", "ctranslate2", "tokenizers", "tiktoken", "nupunkt",
    "nltk", "fastapi",
)  # fmt: skip


def machine(packages: Sequence[str] = PACKAGES) -> str:
    """Cores, processor, versions."""
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"no {package}")
    import torch

    gpu = f"{torch.cuda.get_device_name()}; " if torch.cuda.is_available() else ""
    return f"{gpu}{processor.name()}, {len(os.sched_getaffinity(0))} cores; {', '.join(versions)}"


def origin(command: Sequence[str]) -> dict[str, str]:
    """Date, commit, machine with versions, command."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = "no repository"
    now = datetime.now(UTC).isoformat(timespec="minutes")
    return {"date": now, "commit": commit, "machine": machine(), "command": " ".join(command)}
