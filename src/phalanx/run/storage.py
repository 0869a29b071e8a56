"""How a checkpoint lies on disk: safetensors files and one JSON index. Nothing is ever unpickled.

    model.0.safetensors      the shards that rank 0 keeps of the state's part "model": any safetensors reader opens it
    optimizer.0.safetensors  a file a part, so inference reads and verifies the weights alone
    checkpoint.json          written last: format, step, loss, values, every shard's place, every file's size and CRC-32

torch.distributed.checkpoint keeps its index as a pickle, which runs whatever code it holds when it is read, and imports
torch's compiler, which takes longer than torch itself.
"""

import json
import math
import zlib
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch.distributed as dist
from pydantic import AfterValidator, BaseModel, ValidationError
from torch import Tensor

from phalanx import durable
from phalanx.errors import InputError
from phalanx.run import shards
from phalanx.run.files import Damaged, File, read_file, write_file
from phalanx.run.shards import Place, Shard
from phalanx.runtime.on_all_ranks import gather_objects, on_every_rank, on_rank_zero
from phalanx.strict_json import parse_json

INDEX = "checkpoint.json"
FORMAT = 2  # one more with every change that older versions cannot read; 1 wrote Infinity as such


def _as_json(value: Any) -> Any:
    """Return a plain value of a state with an object for each float that JSON has not: {"float": "inf"}."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    return [*map(_as_json, value)] if isinstance(value, list | tuple) else value


def _from_json(value: Any) -> Any:
    """Return the value of which `_as_json` made this. ValueError where that cannot be."""
    if isinstance(value, dict):
        return float(str(value.get("float")))
    return [*map(_from_json, value)] if isinstance(value, list) else value


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
    values: dict[str, Annotated[Any, AfterValidator(_from_json)]]
    tensors: dict[str, _Entry]
    files: dict[str, _Written]


def read_index(directory: Path) -> dict[str, Any]:
    """Return the content of checkpoint.json. Damaged when it is missing or altered, InputError for a newer format."""
    try:
        content = _parse((directory / INDEX).read_bytes())
        digest = content.pop("checksum")
    except FileNotFoundError:
        raise Damaged(f"{INDEX} is missing") from None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise Damaged(f"{INDEX} is not readable") from None

    if digest != zlib.crc32(_encode(content)):
        raise Damaged(f"{INDEX} is altered")

    if (written := content.get("format", 1)) > FORMAT:
        raise InputError(
            f"{directory} has the format {written} of a newer Phalanx, this one reads up to {FORMAT}; update Phalanx"
        )
    try:
        values = _Index.model_validate(content).values
    except ValidationError as error:
        first = error.errors()[0]
        raise Damaged(f"{INDEX} has another shape: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    return content | {"values": values}


def _parse(written: bytes) -> dict[str, Any]:
    """Return the JSON of an index. ValueError where it is none, KeyError or TypeError where it is of another shape."""
    try:
        content: dict[str, Any] = parse_json(written)
    except ValueError:
        content = json.loads(written)
        if content["format"] != 1:
            raise
    return content


def write_index(directory: Path, content: dict[str, Any]) -> None:
    """Write checkpoint.json: step, loss, values, tensors and files."""
    values = {name: _as_json(value) for name, value in content["values"].items()}
    content = {"format": FORMAT, **content, "values": values}
    digest = zlib.crc32(_encode(content, allow_nan=False))
    durable.write(directory / INDEX, _encode({"checksum": digest, **content}))


def verify(directory: Path, index: dict[str, Any], parts: Collection[str]) -> None:
    """Raise Damaged unless every file of the given parts is there, of the written size and content."""
    for name in _files(index, parts):
        _read(directory, index, name, {}, summed=True)


def fill(directory: Path, index: dict[str, Any], tensors: Mapping[str, Tensor], places: Mapping[str, Place],
         parts: Collection[str], group: dist.ProcessGroup | None) -> None:  # fmt: skip
    """Read into `tensors`, which lie at `places`, the parts of them that a checkpoint has. Damaged unless all of the
    given parts is there as it was written. Every file is summed by one rank, which reads it only once for that.
    """

    def mine(rank: int, ranks: int) -> None:
        regions = shards.wanted(index["tensors"], tensors, places)
        share = _files(index, parts)[rank::ranks]
        for name in dict.fromkeys([*share, *regions]):
            _read(directory, index, name, regions.get(name, {}), summed=name in share)

    on_every_rank(mine, group)


def write(directory: Path, head: dict[str, Any], tensors: Mapping[str, Tensor], places: Mapping[str, Place],
          group: dist.ProcessGroup | None) -> None:  # fmt: skip
    """Write the tensors of all ranks, each part by one of them, and then the index, which `head` opens."""
    # Every rank makes the same plan of the same lists, so nobody has to send it.
    plan = shards.shared_out(gather_objects(shards.held(tensors, places), group))
    files: dict[str, File] = {}

    def mine(rank: int, _: int) -> None:
        named: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for shard in plan[rank]:
            named[_file(shard, rank)][shard.name] = shards.content(shard, tensors, places)
        files.update({name: write_file(directory / name, some, some.__getitem__) for name, some in named.items()})

    on_every_rank(mine, group)
    written = {name: file for each in gather_objects(files, group) for name, file in each.items()}
    # Last, by one rank, once all files are written: a checkpoint with an index is whole.
    on_rank_zero(lambda: write_index(directory, head | _listed(plan, written)), group)


def _listed(plan: list[list[Shard]], written: Mapping[str, File]) -> dict[str, Any]:
    """Return the index of what every rank wrote."""
    tensors: dict[str, Any] = {}
    for rank, some in enumerate(plan):
        for shard in some:
            entry = tensors.setdefault(shard.path, {"dtype": shard.dtype, "shape": [*shard.whole], "chunks": []})
            place = {"file": _file(shard, rank), "offsets": [*shard.offsets], "sizes": [*shard.sizes]}
            entry["chunks"].append(place)
    return {"tensors": tensors, "files": {name: sizes(file) for name, file in written.items()}}


def sizes(file: File) -> dict[str, int]:
    """Return the size in bytes and checksum of a file, as checkpoint.json keeps them."""
    return {"bytes": file.bytes, "checksum": file.checksum}


def _file(shard: Shard, rank: int) -> str:
    return f"{shards.part_of(shard.path)}.{rank}.safetensors"


def _files(index: dict[str, Any], parts: Collection[str]) -> list[str]:
    return [name for name in index["files"] if name.partition(".")[0] in parts]


def _read(directory: Path, index: dict[str, Any], name: str, regions: Mapping[str, Any], summed: bool) -> None:
    """Read one file of a checkpoint into `regions`. Damaged if it is not as it was written."""
    path, written = directory / name, index["files"][name]
    if not path.is_file():
        raise Damaged(f"{name} is missing")
    if (size := path.stat().st_size) != written["bytes"]:
        raise Damaged(f"{name} has {size} bytes, {written['bytes']} were written")
    read_file(path, regions, written["checksum"] if summed else None)


def _encode(content: dict[str, Any], allow_nan: bool = True) -> bytes:
    return json.dumps(content, indent=1, allow_nan=allow_nan).encode()
