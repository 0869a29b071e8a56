"""DCP's planners for tensors that know by name where in the whole they lie.

`places` gives, for the path of a tensor, the shape of the whole and the offset of the part that is here; what it does
not name is whole. The planners are thus free of any layout: a part saved by one is cut anew for another.
"""

from collections.abc import Mapping
from typing import Any

from torch import Size, Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    ReadItem,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

Place = tuple[tuple[int, ...], tuple[int, ...]]  # shape of the whole, offset of the part


def place_of(places: Mapping[str, Place], path: str, tensor: Tensor) -> Place:
    """Where a tensor lies."""
    return places.get(path, (tuple(tensor.shape), (0,) * tensor.ndim))


class SavePlanner(DefaultSavePlanner):
    """Writes the parts that are here; of equal parts on several ranks one is written."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        super().__init__(flatten_state_dict=False)
        self.places = places

    def create_local_plan(self) -> SavePlan:
        """An item for every tensor of which there is a part here."""
        items = [self._item(path, tensor) for path, tensor in self.state_dict.items()]
        self.plan = SavePlan([item for item in items if item])
        return self.plan

    def _item(self, path: str, tensor: Tensor) -> WriteItem | None:
        shape, offset = place_of(self.places, path, tensor)
        if not tensor.numel() and 0 not in shape:
            return None
        chunk = ChunkStorageMetadata(Size(offset), tensor.shape)
        data = TensorWriteData(chunk, TensorProperties.create_from_tensor(tensor), Size(shape))
        return WriteItem(MetadataIndex(path, Size(offset)), WriteItemType.SHARD, tensor_data=data)

    def resolve_data(self, write_item: WriteItem) -> Any:
        """The tensor of an item."""
        return self.state_dict[write_item.index.fqn]


class LoadPlanner(DefaultLoadPlanner):
    """Reads what is wanted here from whatever parts were written."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        super().__init__(flatten_state_dict=False)
        self.places = places

    def create_local_plan(self) -> LoadPlan:
        """For every tensor, an item for each written part that it overlaps."""
        assert self.metadata is not None
        items: list[ReadItem] = []
        for path, tensor in self.state_dict.items():
            chunk = ChunkStorageMetadata(Size(place_of(self.places, path, tensor)[1]), tensor.shape)
            if tensor.numel():
                written: Any = self.metadata.state_dict_metadata[path]
                items += create_read_items_for_chunk_list(path, written, [chunk])
        return LoadPlan(items)

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        """The region of a tensor that an item fills."""
        tensor: Tensor = self.state_dict[read_item.dest_index.fqn]
        for dim, (start, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            tensor = tensor.narrow(dim, start, length)
        return tensor
