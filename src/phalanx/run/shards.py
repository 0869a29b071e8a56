"""Tensors of which every rank holds a part: who writes which part, and which written parts a wanted one overlaps.

`places` gives, for the path of a tensor, the shape of the whole and the boxes of it that are here; what it does not
name is whole. A checkpoint is thus free of any layout: boxes saved by one are cut anew for another.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple

from torch import Tensor

from phalanx.run.files import NAMES, Damaged, Wanted
from phalanx.spec import partition
from phalanx.spec.partition import Box

Place = tuple[tuple[int, ...], tuple[Box, ...]]  # shape of the whole, boxes of the part


class Shard(NamedTuple):
    """A box of a tensor that a rank holds."""

    path: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    whole: tuple[int, ...]
    dtype: str

    @property
    def name(self) -> str:
        """The shard's name within the file of its part of the state."""
        return shard_name(self.path.partition("/")[2], self.offsets)


def shard_name(name: str, offsets: Sequence[int]) -> str:
    """Return the name of a tensor's shard: the tensor's, and where the shard begins unless at the origin."""
    return f"{name}{[*offsets]}" if any(offsets) else name


def part_of(path: str) -> str:
    """Return the part of the state that a tensor or value belongs to."""
    return path.partition("/")[0]


def place_of(places: Mapping[str, Place], path: str, tensor: Tensor) -> Place:
    """Return the shape of a whole tensor and the boxes of it that are here."""
    shape = tuple(tensor.shape)
    return places.get(path, (shape, (partition.whole(shape),)))


def held(tensors: Mapping[str, Tensor], places: Mapping[str, Place]) -> list[Shard]:
    """Return the shards that this rank holds. A box without elements counts only where the whole tensor has none."""
    shards = []
    for path, tensor in tensors.items():
        whole, boxes = place_of(places, path, tensor)
        held = (box for box in boxes if prod(box.shape) or 0 in whole)
        shards += [Shard(path, box.global_offset, box.shape, whole, NAMES[tensor.dtype]) for box in held]
    return shards


def content(shard: Shard, tensors: Mapping[str, Tensor], places: Mapping[str, Place]) -> Tensor:
    """Return the elements of a shard, a view of the tensor that holds it."""
    tensor = tensors[shard.path].detach()
    _, boxes = place_of(places, shard.path, tensor)
    (held,) = (box for box in boxes if (box.global_offset, box.shape) == (shard.offsets, shard.sizes))
    return tensor[held.local_slices]


def shared_out(everyone: Sequence[Sequence[Shard]]) -> list[list[Shard]]:
    """Share out the writing: return the shards that each rank writes, given those that each holds. Of equal ones one is
    written, by whoever of its holders has least to write.
    """
    holders: dict[Shard, list[int]] = defaultdict(list)
    for rank, shards in enumerate(everyone):
        for shard in shards:
            holders[shard].append(rank)

    mine: list[list[Shard]] = [[] for _ in everyone]
    load = [0] * len(everyone)
    for shard, ranks in holders.items():
        least = min(ranks, key=load.__getitem__)
        mine[least].append(shard)
        load[least] += prod(shard.sizes)
    return mine


def wanted(
    entries: Mapping[str, Any], tensors: Mapping[str, Tensor], places: Mapping[str, Place]
) -> dict[str, dict[str, list[Wanted]]]:
    """Return the regions to read of a checkpoint's `entries` to fill `tensors`, by file and by name in it. Damaged if a
    part is not there.
    """
    regions: dict[str, dict[str, list[Wanted]]] = defaultdict(lambda: defaultdict(list))
    for path, tensor in tensors.items():
        filled = 0
        for box, chunk in product(place_of(places, path, tensor)[1], entries[path]["chunks"]):
            if (both := _overlap(chunk["offsets"], chunk["sizes"], box.global_offset, box.shape)) is None:
                continue
            stored, local = both
            target = tensor.detach()[box.local_slices][local]
            name = shard_name(path.partition("/")[2], chunk["offsets"])
            regions[chunk["file"]][name].append(Wanted(stored, target))
            filled += target.numel()
        if filled != tensor.numel():
            raise Damaged(f"{path} is there only in part")
    return regions


def _overlap(
    theirs: Sequence[int], their_sizes: Sequence[int], ours: Sequence[int], our_sizes: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """Intersect two boxes of given offsets and sizes. Return slices of the first and of the second; None where they do
    not meet.
    """
    in_first, in_second = [], []
    for a, size_a, b, size_b in zip(theirs, their_sizes, ours, our_sizes, strict=True):
        low, high = max(a, b), min(a + size_a, b + size_b)
        if low >= high:
            return None
        in_first.append(slice(low - a, high - a))
        in_second.append(slice(low - b, high - b))
    return tuple(in_first), tuple(in_second)
