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
from phalanx.spec import partition
from phalanx.spec.model import Spec


@dataclass(frozen=True)
class Axis:
    """One axis seen from this process: its length, this process's rank on it, the group that communicates along it."""

    size: int = 1
    rank: int = 0
    group: dist.ProcessGroup | None = None


ALONE = Axis()


@dataclass(frozen=True)
class Mesh:
    """The axes of a run. Among `within` a stage's parameters are split: tp, and with sharding the shards too. `sharing`
    are groups of tp ranks that hold the same boxes, one for each size of group: tp itself, and fewer neighbours that
    share a key head. `fsdp` is what `fully_shard` wants, where parameters are sharded: [shards], or [copies, shards] in
    hybrid sharding.
    """

    pp: Axis = ALONE
    dp: Axis = ALONE
    cp: Axis = ALONE
    tp: Axis = ALONE
    data: Axis = ALONE
    shards: Axis = ALONE
    world: Axis = ALONE
    within: Axis = ALONE
    sharing: tuple[Axis, ...] = ()
    fsdp: DeviceMesh | None = None


def make_mesh(layout: LayoutConfig, device: torch.device, spec: Spec | None = None) -> Mesh:
    """Return the mesh of the running process group, or of this process alone; `spec` says how many ranks share a key
    head. Sizes were checked by `resolve`.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return Mesh()
    ways = (layout.shard_ways or layout.dp * layout.cp) // layout.cp  # of dp; cp is always among the shards
    sizes = {"pp": layout.pp, "copies": layout.dp // ways, "split": ways, "cp": layout.cp, "tp": layout.tp}
    long = {name: size for name, size in sizes.items() if size > 1}  # a group of one has nobody to talk to
    grid = init_device_mesh(device.type, tuple(long.values()), mesh_dim_names=tuple(long))

    def along(name: str, *dims: str) -> DeviceMesh | None:
        """Return one dim of the grid, or several as one."""
        held = tuple(dim for dim in dims if dim in long)
        return grid[held]._flatten(name) if len(held) > 1 else grid[held[0]] if held else None

    shards = along("shards", "split", "cp")
    meshes = {
        "pp": along("pp", "pp"), "cp": along("cp", "cp"), "tp": along("tp", "tp"), "shards": shards,
        "dp": along("dp", "copies", "split"), "data": along("data", "copies", "split", "cp"),
        "within": along("within", *(("split", "cp") if layout.shard != "none" else ()), "tp"),
    }  # fmt: skip

    fsdp = None
    if layout.shard != "none":
        assert shards is not None and shards.mesh_dim_names is not None
        fsdp = grid["copies", shards.mesh_dim_names[0]] if "copies" in long else shards

    world = Axis(dist.get_world_size(), dist.get_rank(), dist.group.WORLD)
    axes = {name: _axis(mesh) for name, mesh in meshes.items()}
    sharing = axes["tp"], *map(_neighbours, partition.shared(spec, layout.tp) if spec else ())
    return Mesh(**axes, world=world, sharing=sharing, fsdp=fsdp)


def _neighbours(size: int) -> Axis:
    """Return the group of so many neighbours in tp: neighbouring ranks of the world, as tp is the last axis."""
    group, _ = dist.new_subgroups(size, group_desc="mesh_tp")  # type: ignore[no-untyped-call]
    return Axis(size, dist.get_rank() % size, group)


def _axis(mesh: DeviceMesh | None) -> Axis:
    return Axis(mesh.size(), mesh.get_local_rank(), mesh.get_group()) if mesh else ALONE
