"""The weights of a Hugging Face folder by name: safetensors or PyTorch's files, whole or in pieces."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from phalanx.convert import pickled
from phalanx.errors import InputError
from phalanx.foreign import read_json, reading, short
from phalanx.run.files import DTYPES
from phalanx.run.hub_models import WEIGHTS

FLOATS = {name: dtype for name, dtype in DTYPES.items() if dtype.is_floating_point}


class Tensors(Mapping[str, Tensor]):
    """Tensors by name that another program wrote, each read when it is asked for."""

    @abstractmethod
    def like(self, name: str) -> Tensor:
        """Return a tensor's shape and type of numbers, on the meta device."""


class Weights(Tensors):
    """The tensors of a folder, each read from the disk when it is asked for. Every file is opened once, and stays open
    as long as this lives.

    InputError for a damaged file, and for a tensor whose numbers are not floating point.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._opened: dict[str, Any] = {}
        self._mapped: dict[str, Mapping[str, Tensor]] = {}
        self.files = self._files()

    def __getitem__(self, name: str) -> Tensor:
        path = self.folder / self.files[name]
        if path.name in self._mapped:
            self.like(name)
            return self._mapped[path.name][name]
        with reading(path):
            tensor: Tensor = self._opened[path.name].get_tensor(name)
        _must_be_float(path, name, tensor.dtype in FLOATS.values(), str(tensor.dtype))
        return tensor

    def like(self, name: str) -> Tensor:
        """Return a tensor's shape and type of numbers, on the meta device."""
        path = self.folder / self.files[name]
        if path.name in self._mapped:
            tensor = self._mapped[path.name][name]
            plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
            _must_be_float(path, name, tensor.dtype in FLOATS.values() and plain, str(tensor.dtype))
            return torch.empty_like(tensor, device="meta")
        with reading(path):
            part = self._opened[path.name].get_slice(name)
            shape, dtype = part.get_shape(), part.get_dtype()
        _must_be_float(path, name, dtype in FLOATS, dtype)
        return torch.empty(shape, dtype=FLOATS[dtype], device="meta")

    def __contains__(self, name: object) -> bool:
        return name in self.files  # a Mapping's own would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def _files(self) -> dict[str, str]:
        """Return the file of each tensor, in the order of an index or of the file. InputError where there is none."""
        for name in WEIGHTS:
            index = self.folder / f"{name}.index.json"
            if index.is_file():
                return self._indexed(index)
            if (self.folder / name).is_file():
                return dict.fromkeys(self._names(self.folder / name), name)
        raise InputError(f"{self.folder} has neither {' nor '.join(WEIGHTS)}, whole or in pieces")

    def _indexed(self, index: Path) -> dict[str, str]:
        """Return the file of each tensor that an index names. InputError where the file or the tensor is missing."""
        files = read_json(index).get("weight_map")
        if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
            raise InputError(f"{index} has no weight_map of names to files")

        names_of = {}
        for file in sorted(set(files.values())):
            with reading(index):
                exists = Path(file).name == file and (self.folder / file).is_file()
            if not exists:
                raise InputError(f"{index} names {short(file)}, which is not in {self.folder}")
            names_of[file] = set(self._names(self.folder / file))

        for name, file in files.items():
            if name not in names_of[file]:
                raise InputError(f"{index} names the tensor {short(name)} of {file}, which has it not; copy both again")
        return files

    def _names(self, path: Path) -> list[str]:
        """Open a file and return the names of its tensors."""
        if path.suffix != ".safetensors":
            self._mapped[path.name] = _unpickled(path)
            return list(self._mapped[path.name])
        with reading(path):
            opened: Any = safe_open(path, framework="pt")
            self._opened[path.name] = opened
            return list(opened.keys())


class Headers(Tensors):
    """The tensors of a model of which the headers alone are at hand, types and shapes by name. What is read of one is
    empty.
    """

    def __init__(self, source: str, entries: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        self.source, self.entries = source, entries

    def __getitem__(self, name: str) -> Tensor:
        assert name in self
        return torch.empty(0)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def like(self, name: str) -> Tensor:
        """Return a tensor's shape and type of numbers, on the meta device."""
        dtype, shape = self.entries[name]
        _must_be_float(self.source, name, dtype in FLOATS, dtype)
        return torch.empty(shape, dtype=FLOATS[dtype], device="meta")

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def _must_be_float(path: Path | str, name: str, is_float: bool, dtype: str) -> None:
    if not is_float:
        raise InputError(
            f"{path}: {name} holds {dtype}, and weights are of {', '.join(FLOATS)}; save the model in one of these"
        )


def _unpickled(path: Path) -> Mapping[str, Tensor]:
    """Return the tensors of a file of torch.save by name. InputError where it holds anything else."""
    content = pickled.load(path)
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise InputError(f"{path} holds something else than tensors by name")
    return content
