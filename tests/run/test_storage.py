"""The storage under several ranks: shards written by two processes load whole into one, and the other way round."""

import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from phalanx.run import storage

RANKS = 2


def _whole() -> dict[str, Tensor]:
    return {
        "model/rows": torch.arange(35.0).reshape(7, 5),
        "model/columns": torch.arange(12).reshape(3, 4),
        "model/same": torch.arange(6, dtype=torch.bfloat16),
        "optimizer/step": torch.tensor(3.0),
    }


def _placed(tensors: dict[str, Tensor], flip: bool) -> dict[str, Tensor]:
    mesh = init_device_mesh("cpu", (RANKS,))
    rows, columns = (Shard(1), Shard(0)) if flip else (Shard(0), Shard(1))
    places = {"model/rows": rows, "model/columns": columns, "model/same": Replicate()}
    return {
        name: distribute_tensor(tensor, mesh, [places[name]]) if name in places else tensor
        for name, tensor in tensors.items()
    }


def _save_and_load_otherwise(rank: int, path: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}/meet", rank=rank, world_size=RANKS)
    state_dict_saver.save(
        _placed(_whole(), flip=False), storage_writer=storage.Writer(path, {"step": 1, "loss": None, "values": {}})
    )
    blank = _placed({name: torch.zeros_like(tensor) for name, tensor in _whole().items()}, flip=True)
    state_dict_loader.load(blank, storage_reader=storage.Reader(path, storage.read_index(path)))
    for name, tensor in _whole().items():
        loaded = blank[name]
        assert torch.equal(loaded.full_tensor() if isinstance(loaded, DTensor) else loaded, tensor), name
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_two_ranks_write_and_any_layout_reads(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["phalanx.run.checkpoint"])
    ranks = [context.Process(target=_save_and_load_otherwise, args=(rank, tmp_path)) for rank in range(RANKS)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]

    assert {"model.0.safetensors", "model.1.safetensors"} <= {path.name for path in tmp_path.iterdir()}
    index = storage.read_index(tmp_path)
    storage.verify(tmp_path, index, ["model", "optimizer"])
    assert index["step"] == 1
    blank = {name: torch.zeros_like(tensor) for name, tensor in _whole().items()}
    state_dict_loader.load(blank, storage_reader=storage.Reader(tmp_path, index), no_dist=True)
    assert all(torch.equal(blank[name], tensor) for name, tensor in _whole().items())
