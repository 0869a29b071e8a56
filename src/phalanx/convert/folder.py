"""The weights of a Hugging Face folder by name: safetensors or PyTorch's files, whole or in pieces."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from phalanx.errors import InputError
from phalanx.run.files import DTYPES

NAMES = ("model.safetensors", "pytorch_model.bin")


class Weights(Mapping[str, Tensor]):
    """Read when asked for: one tensor of a safetensors file, or mapped from the disk where it is PyTorch's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = _files(folder)
        self._mapped: dict[str, Mapping[str, Tensor]] = {}

    def __getitem__(self, name: str) -> Tensor:
        file = self.files[name]
        if not file.endswith(".safetensors"):
            if file not in self._mapped:
                self._mapped[file] = _unpickled(self.folder / file)
            return self._mapped[file][name]
        with safe_open(self.folder / file, framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
            return tensor

    def like(self, name: str) -> Tensor:
        """A tensor's shape and numbers, on the meta device."""
        file = self.files[name]
        if not file.endswith(".safetensors"):
            return torch.empty_like(self[name], device="meta")
        with safe_open(self.folder / file, framework="pt") as opened:
            part = opened.get_slice(name)
            return torch.empty(part.get_shape(), dtype=DTYPES[part.get_dtype()], device="meta")

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file; InputError where it is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path.parent} has no {path.name}: it is no Hugging Face model's folder") from None
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object")
    return content


def _files(folder: Path) -> dict[str, str]:
    """The file of each tensor."""
    for name in NAMES:
        index = folder / f"{name}.index.json"
        if index.is_file():
            found = read_json(index).get("weight_map")
            if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
                raise InputError(f"{index} has no weight_map of names to files")
            for file in sorted(set(found.values())):
                if Path(file).name != file or not (folder / file).is_file():
                    raise InputError(f"{index} names {file}, which is not in {folder}")
            return found
        if (folder / name).is_file():
            return dict.fromkeys(_names(folder / name), name)
    raise InputError(f"{folder} has neither {' nor '.join(NAMES)}, whole or in pieces")


def _names(path: Path) -> list[str]:
    if path.suffix == ".bin":
        return list(_unpickled(path))
    keys: list[str] = _guarded(path, lambda: _keys(path))
    return keys


def _keys(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as opened:
        return list(opened.keys())


def _unpickled(path: Path) -> Mapping[str, Tensor]:
    """Tensors by name of a file of torch.save, which may hold nothing else."""
    try:
        found = _guarded(path, lambda: torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    except RuntimeError:
        found = _guarded(path, lambda: torch.load(path, map_location="cpu", weights_only=True))  # of before torch 1.6
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise InputError(f"{path} holds something else than tensors by name")
    return found


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except UnpicklingError:
        said = f"{path} holds more than tensors, which may be code: it is not opened; save it as safetensors"
        raise InputError(said) from None
    except (SafetensorError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{path} cannot be read ({error}); was it cut off?") from None
