"""The processes of a run as a grid with named axes.

    pp   stages of the pipeline
    dp   replicas, each with its own sequences of the batch
    cp   parts of every sequence
    tp   parts of every layer

Neighbours in the last axis are neighbouring ranks, so tensor parallelism, which talks most, stays within a machine. A
gradient is summed over `data`, dp and cp together; parameters are sharded over `shards`, all of `data` or, in hybrid
sharding, the part of it that `layout.shard_ways` names. With one process no process group is needed.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from phalanx.config import LayoutConfig


@dataclass(frozen=True)
class Axis:
    """One axis seen from this process: how long it is, where on it we stand, whom we talk to along it."""

    size: int = 1
    rank: int = 0
    group: dist.ProcessGroup | None = None


ALONE = Axis()


@dataclass(frozen=True)
class Mesh:
    """The axes of a run. Among `within` a stage's parameters are split: tp, and with sharding the shards too. `fsdp` is
    what `fully_shard` wants, where parameters are sharded: [shards], or [copies, shards] in hybrid sharding.
    """

    pp: Axis = ALONE
    dp: Axis = ALONE
    cp: Axis = ALONE
    tp: Axis = ALONE
    data: Axis = ALONE
    shards: Axis = ALONE
    world: Axis = ALONE
    within: Axis = ALONE
    fsdp: DeviceMesh | None = None


def data_size(layout: LayoutConfig, processes: int) -> int:
    """Replicas when `processes` are laid out: layout.dp, or what the other axes leave."""
    return layout.dp or processes // (layout.tp * layout.cp * layout.pp)


def make_mesh(layout: LayoutConfig, device: torch.device) -> Mesh:
    """The mesh of the running process group, or of this process alone. Sizes were checked by `resolve`."""
    if not dist.is_initialized():
        return Mesh()
    dp = data_size(layout, dist.get_world_size())
    ways = (layout.shard_ways or dp * layout.cp) // layout.cp  # of dp; cp is always among the shards
    sizes = (layout.pp, dp // ways, ways, layout.cp, layout.tp)
    grid = init_device_mesh(device.type, sizes, mesh_dim_names=("pp", "copies", "split", "cp", "tp"))
    flat = {
        "within": grid["split", "cp", "tp"]._flatten("within") if layout.shard != "none" else grid["tp"],
        "dp": grid["copies", "split"]._flatten("dp"),
        "data": grid["copies", "split", "cp"]._flatten("data"),
        "shards": grid["split", "cp"]._flatten("shards"),
    }
    fsdp = None
    if layout.shard != "none":
        fsdp = flat["shards"] if ways == dp else grid["copies", "shards"]
    axes = {name: _axis(mesh) for name, mesh in flat.items()}
    axes |= {name: _axis(grid[name]) for name in ("pp", "cp", "tp")}
    world = Axis(dist.get_world_size(), dist.get_rank(), dist.group.WORLD)
    return Mesh(**axes, world=world, fsdp=fsdp)


def _axis(mesh: DeviceMesh) -> Axis:
    return Axis(mesh.size(), mesh.get_local_rank(), mesh.get_group())
