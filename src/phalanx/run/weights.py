"""The weights of a checkpoint, one at a time: for conversions, which need not hold them all."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from phalanx.run.files import DTYPES
from phalanx.run.shards import shard_name


class Weights(Mapping[str, Tensor]):
    """Whole tensors by name, put together from the shards in which a verified checkpoint has them."""

    def __init__(self, directory: Path, index: dict[str, Any]) -> None:
        self.directory = directory
        tensors = index["tensors"].items()
        self.entries = {path.removeprefix("model/"): entry for path, entry in tensors if path.startswith("model/")}

    def __getitem__(self, name: str) -> Tensor:
        entry = self.entries[name]
        whole = torch.empty(entry["shape"], dtype=DTYPES[entry["dtype"]])
        for chunk in entry["chunks"]:
            region = tuple(slice(at, at + n) for at, n in zip(chunk["offsets"], chunk["sizes"], strict=True))
            with safe_open(self.directory / chunk["file"], framework="pt") as file:
                whole[region] = file.get_tensor(shard_name(name, chunk["offsets"]))
        return whole

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)
