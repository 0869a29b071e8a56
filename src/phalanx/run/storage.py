"""How a checkpoint lies on disk: safetensors files and one JSON index, under torch.distributed.checkpoint (DCP).

DCP's planner decides which rank writes and reads what, and reshapes shards from any layout into any other. Its own file
format, though, keeps the index (`.metadata`) as a pickle, and a pickle runs whatever code it holds when it is read.
The planner does not care how bytes lie, so only the storage is replaced here, and nothing is ever unpickled:

    model.0.safetensors      the shards that rank 0 keeps of the state's part "model": any safetensors reader opens it
    optimizer.0.safetensors  a file a part, so inference reads and verifies the weights alone
    checkpoint.json          written last: format, step, loss, values, every shard's place, every file's size and CRC-32

DCP ships a safetensors writer too; it builds each file in memory first and has no room for values and checksums. This
one streams tensor after tensor and sums as it goes. CRC-32 finds damage (every run of up to 32 flipped bits), at twice
the speed of SHA-256 here; it is no protection against a forger, who gains nothing but other weights.
"""

import dataclasses
import json
import os
import struct
import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ValidationError
from safetensors import safe_open
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem, SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from phalanx import durable
from phalanx.errors import InputError

INDEX = "checkpoint.json"
FORMAT = 1  # one more with every change that older versions cannot read
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Damaged(InputError):
    """A checkpoint is incomplete or not what was written. The message says which file and how."""


class _Chunk(BaseModel):
    file: str
    offsets: list[int]
    sizes: list[int]


class _Entry(BaseModel):
    dtype: str
    shape: list[int]
    chunks: list[_Chunk]


class _Written(BaseModel):
    bytes: int
    checksum: int


class _Index(BaseModel):
    """The shape of checkpoint.json."""

    step: int
    loss: float | None
    values: dict[str, Any]
    tensors: dict[str, _Entry]
    files: dict[str, _Written]


class File(NamedTuple):
    """One written file: its name in the checkpoint, its size, its CRC-32."""

    name: str
    bytes: int
    checksum: int


def part_of(path: str) -> str:
    """The part of the state that a tensor or value belongs to."""
    return path.partition("/")[0]


def read_index(directory: Path) -> dict[str, Any]:
    """What checkpoint.json holds; Damaged when it is missing or altered, InputError when it is of a newer format."""
    try:
        content: dict[str, Any] = json.loads((directory / INDEX).read_bytes())
        digest = content.pop("checksum")
    except FileNotFoundError:
        raise Damaged(f"{INDEX} is missing") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise Damaged(f"{INDEX} is not readable") from None
    if digest != zlib.crc32(_encode(content)):
        raise Damaged(f"{INDEX} is altered")
    if (written := content.get("format", 1)) > FORMAT:
        raise InputError(
            f"{directory} has the format {written} of a newer Phalanx, this one reads up to {FORMAT}; update Phalanx"
        )
    try:
        _Index.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise Damaged(f"{INDEX} has another shape: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return content


def write_index(directory: Path, content: dict[str, Any]) -> None:
    """Write checkpoint.json: step, loss, values, tensors and files."""
    content = {"format": FORMAT, **content}
    durable.write(directory / INDEX, _encode({"checksum": zlib.crc32(_encode(content)), **content}))


def verify(directory: Path, index: dict[str, Any], parts: Collection[str], rank: int = 0, ranks: int = 1) -> None:
    """Raise Damaged unless every file of the given parts is there, of the written size and content. Of several `ranks`
    each looks at its share of the files."""
    files = [(name, written) for name, written in index["files"].items() if name.partition(".")[0] in parts]
    for name, written in files[rank::ranks]:
        path = directory / name
        if not path.is_file():
            raise Damaged(f"{name} is missing")
        if (size := path.stat().st_size) != written["bytes"]:
            raise Damaged(f"{name} has {size} bytes, {written['bytes']} were written")
        if _checksum(path) != written["checksum"]:
            raise Damaged(f"{name} is altered: its checksum differs")


class Writer(StorageWriter):
    """Writes shards into `directory`, and at the end its index, which `head` (step, loss, values) opens."""

    def __init__(self, directory: Path, head: dict[str, Any]) -> None:
        self.directory = directory
        self.head = head

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between saves."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """The directory is there already."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As planned."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Tell every rank its number: its files carry it."""
        return [dataclasses.replace(plan, storage_data=rank) for rank, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's shards, one file a part."""
        parts: dict[str, list[WriteItem]] = defaultdict(list)
        for item in plan.items:
            parts[part_of(item.index.fqn)].append(item)
        results: list[WriteResult] = []
        for part, items in parts.items():
            shards = {item.index: _tensor(planner, item) for item in items}
            named = {_name(index): shard for index, shard in shards.items()}
            path = self.directory / f"{part}.{plan.storage_data}.safetensors"
            file = write_file(path, named, named.__getitem__)
            results += [WriteResult(index, shard.nbytes, file) for index, shard in shards.items()]
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the index of every rank's files."""
        places = {result.index: result.storage_data for rank in results for result in rank}
        files = {file.name: {"bytes": file.bytes, "checksum": file.checksum} for file in places.values()}
        tensors = {}
        for path, entry in metadata.state_dict_metadata.items():
            assert isinstance(entry, TensorStorageMetadata), path
            chunks = [
                {"file": places[MetadataIndex(path, c.offsets)].name, "offsets": [*c.offsets], "sizes": [*c.sizes]}
                for c in entry.chunks
            ]
            tensors[path] = {"dtype": NAMES[entry.properties.dtype], "shape": [*entry.size], "chunks": chunks}
        write_index(self.directory, {**self.head, "tensors": tensors, "files": files})

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Any directory will do."""
        return True


class Reader(StorageReader):
    """Reads shards from `directory` as its verified `index` says."""

    def __init__(self, directory: Path, index: dict[str, Any]) -> None:
        self.directory = directory
        self.index = index
        self.places: dict[MetadataIndex, str] = {}

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between loads."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index in DCP's terms."""
        tensors: dict[str, Any] = {}
        for path, entry in self.index["tensors"].items():
            chunks = []
            for chunk in entry["chunks"]:
                offsets = torch.Size(chunk["offsets"])
                chunks.append(ChunkStorageMetadata(offsets, torch.Size(chunk["sizes"])))
                self.places[MetadataIndex(path, offsets)] = chunk["file"]
            properties = TensorProperties(dtype=DTYPES[entry["dtype"]])
            tensors[path] = TensorStorageMetadata(properties, torch.Size(entry["shape"]), chunks)
        return Metadata(tensors)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """All is known from `read_metadata`."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As planned."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As planned."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy every planned slice into its tensor."""
        items: dict[str, list[ReadItem]] = defaultdict(list)
        for item in plan.items:
            items[self.places[item.storage_index]].append(item)
        for name, wanted in items.items():
            with safe_open(self.directory / name, framework="pt") as file:
                for item in wanted:
                    region = tuple(
                        slice(start, start + size)
                        for start, size in zip(item.storage_offsets, item.lengths, strict=True)
                    )
                    target = planner.resolve_tensor(item).detach()
                    target.copy_(file.get_slice(_name(item.storage_index))[region])
                    planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Any directory will do."""
        return True


def _tensor(planner: SavePlanner, item: WriteItem) -> Tensor:
    shard = planner.resolve_data(item)
    assert isinstance(shard, Tensor), f"{item.index.fqn} is no tensor"
    return shard.detach()


def _name(index: MetadataIndex) -> str:
    """A shard's name within the file of its part."""
    return shard_name(index.fqn.partition("/")[2], index.offset or ())


def shard_name(name: str, offsets: Sequence[int]) -> str:
    """A tensor's, and where the shard begins unless at the origin."""
    return f"{name}{[*offsets]}" if any(offsets) else name


def write_file(path: Path, shapes: Mapping[str, Tensor], read: Callable[[str], Tensor], **metadata: str) -> File:
    """One safetensors file: length of the header, the header in JSON, then the tensors' bytes back to back.

    `shapes` has the tensors by name, or as many on the meta device; `read` gives them, one at a time.
    """
    ordered = sorted(shapes, key=lambda name: -shapes[name].dtype.itemsize)  # so that every tensor is aligned
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name in ordered:
        start, end = end, end + shapes[name].nbytes
        entry = {"dtype": NAMES[shapes[name].dtype], "shape": [*shapes[name].shape], "data_offsets": [start, end]}
        header[name] = entry
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    size, checksum = 0, 0
    with path.open("wb") as file:
        for piece in _pieces(struct.pack("<Q", len(text)) + text, map(read, ordered)):
            size, checksum = size + file.write(piece), zlib.crc32(piece, checksum)
        file.flush()
        os.fsync(file.fileno())
    return File(path.name, size, checksum)


def _pieces(head: bytes, shards: Iterable[Tensor]) -> Iterable[memoryview]:
    yield memoryview(head)
    for shard in shards:
        yield shard.cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            checksum = zlib.crc32(piece, checksum)
    return checksum


def _encode(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode()
