"""The storage under several ranks: shards written by two processes load whole into one, and the other way round."""

import multiprocessing
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from phalanx.run.shards import Place
from phalanx.spec.partition import Box
from tests.run.states import make_folder

RANKS = 2
ALONG = {"model/rows": 0, "model/columns": 1, "model/long": 0}  # dim that is split; the next save splits the other


def _whole() -> dict[str, Tensor]:
    return {
        "model/rows": torch.arange(35.0).reshape(7, 5),
        "model/columns": torch.arange(12).reshape(3, 4),
        "model/long": torch.arange(1 << 20).reshape(1024, 1024),  # read in several pieces
        "model/same": torch.arange(6, dtype=torch.bfloat16),
        "model/few": torch.arange(1.0),  # none for the second rank
        "optimizer/step": torch.tensor(3.0),
    }


def _placed(rank: int, flip: bool) -> tuple[dict[str, dict[str, Tensor]], dict[str, Place]]:
    """What a rank has, as a state, and where it lies."""
    state: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
    places: dict[str, Place] = {}
    for path, tensor in _whole().items():
        part, offset = tensor, [0] * tensor.ndim
        if path in ALONG or path == "model/few":
            dim = (1 - ALONG[path] if flip else ALONG[path]) if path in ALONG else 0
            size = -(-tensor.shape[dim] // RANKS)
            part, offset[dim] = tensor.split(size, dim)[rank] if rank * size < tensor.shape[dim] else tensor[:0], 0
            offset[dim] = min(rank * size, tensor.shape[dim])
        places[path] = tuple(tensor.shape), (Box(tuple(part.shape), (0,) * part.ndim, tuple(offset)),)
        name = path.partition("/")[2]
        state[path.partition("/")[0]][name] = part.clone()
    return state, places


def _save_and_load_otherwise(rank: int, path: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}/meet", rank=rank, world_size=RANKS)
    saver = Checkpointer(RunFolder(path), group=dist.new_group(backend="gloo"))
    state, places = _placed(rank, flip=False)
    saver.save(1, state, places=places)
    expected, places = _placed(rank, flip=True)
    blank = {part: {name: torch.zeros_like(t) for name, t in some.items()} for part, some in expected.items()}
    assert saver.load(blank, places=places).step == 1
    for part, some in expected.items():
        for name, tensor in some.items():
            assert torch.equal(blank[part][name], tensor), name
    dist.destroy_process_group()


def test_two_ranks_write_and_any_layout_reads(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["phalanx.run.checkpoint"])
    ranks = [context.Process(target=_save_and_load_otherwise, args=(rank, tmp_path)) for rank in range(RANKS)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]

    files = {path.name for path in (folder.checkpoints / "step-0000001").iterdir()}
    assert {"model.0.safetensors", "model.1.safetensors"} <= files
    state = {"model": {}, "optimizer": {}}  # type: dict[str, dict[str, Tensor]]
    for path, tensor in _whole().items():
        state[path.partition("/")[0]][path.partition("/")[2]] = torch.zeros_like(tensor)
    assert Checkpointer(folder).load(state).step == 1
    for path, tensor in _whole().items():
        assert torch.equal(state[path.partition("/")[0]][path.partition("/")[2]], tensor), path
