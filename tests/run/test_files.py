"""Files of tensors: how often they are read, what sums to what, and what their writer needs of the file system."""

import errno
import os
import random
import zlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from phalanx.run import checksum, files, staging
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder


def test_pieces_sum_to_the_whole() -> None:
    random.seed(7)
    pieces = [random.randbytes(size) for size in (0, 1, 7, 4096, 100_003, 100_003, 5)]
    sums = [(zlib.crc32(piece), len(piece)) for piece in pieces]
    assert checksum.joined(sums) == zlib.crc32(b"".join(pieces))
    assert checksum.joined([]) == 0


def test_a_load_reads_every_byte_once_and_in_place(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the speed of loading: no second pass for the checksum, no copy, and few calls."""
    state = {"model": {"big": torch.randn(3 * files.READ // 4 + 5), "small": torch.randn(10, 10)}, "step": {"n": 1}}
    saver = Checkpointer(folder, asynchronous=False)
    saver.save(1, state)
    reads: list[int] = []
    preadv = os.preadv

    def counted(handle: int, views: Any, offset: int) -> int:
        reads.append(preadv(handle, views, offset))
        return reads[-1]

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("copied out of a second view of the file")

    monkeypatch.setattr(os, "preadv", counted)
    monkeypatch.setattr(files, "safe_open", refused)
    blank = {"model": {name: torch.zeros_like(t) for name, t in state["model"].items()}, "step": {"n": 0}}
    saver.load(blank)
    assert all(torch.equal(blank["model"][name], t) for name, t in state["model"].items())
    path = folder.checkpoints / "step-0000001" / "model.0.safetensors"
    assert sum(reads) == path.stat().st_size
    assert len(reads) == 1 + 4 + 1  # the header, the big one in pieces, the small one


@pytest.mark.parametrize("at", ["open", "write"])
def test_a_file_system_without_direct_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    real, refusals = getattr(os, at), []

    def refusing(first: Any, second: Any, *rest: Any) -> Any:
        if (second & os.O_DIRECT) if at == "open" else not refusals:
            refusals.append(at)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(first, second, *rest)

    monkeypatch.setattr(os, at, refusing)
    tensors = {"a": torch.randn(files.WRITTEN // 4 + 3), "b": torch.randn(5, 5).bfloat16()}
    written = files.write_file(tmp_path / "x.safetensors", tensors, tensors.__getitem__)
    monkeypatch.undo()
    content = (tmp_path / "x.safetensors").read_bytes()
    assert refusals == [at]
    assert (written.bytes, written.checksum) == (len(content), zlib.crc32(content))
    loaded = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_what_is_wanted_is_found_in_any_cut(tmp_path: Path) -> None:
    whole = torch.randn(40, 30)
    files.write_file(tmp_path / "x", {"w": whole}, lambda _: whole)
    rows, columns, turned = torch.zeros(7, 30), torch.zeros(40, 11), torch.zeros(30, 40).t()
    for region, target in [
        ((slice(3, 10), slice(0, 30)), rows),
        ((slice(0, 40), slice(5, 16)), columns),
        ((slice(0, 40), slice(0, 30)), turned),
    ]:
        files.read_file(tmp_path / "x", {"w": [files.Wanted(region, target)]}, None)
        assert torch.equal(target, whole[region])
    with pytest.raises(files.Damaged, match="it lacks v"):
        files.read_file(tmp_path / "x", {"v": [files.Wanted((), torch.zeros(()))]}, None)
    content = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(content.replace(b"[40, 30]", b"[40, 31]"))
    with pytest.raises(files.Damaged, match="x is altered"):  # who reads a part sums nothing, and has to notice
        files.read_file(tmp_path / "x", {"w": [files.Wanted((slice(3, 10), slice(0, 30)), rows)]}, None)


def test_copies_are_made_by_the_gpu_that_has_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that copies has another current GPU. Stood in for here."""
    used: list[Any] = []

    class Stream:
        def __init__(self, device: Any) -> None:
            used.append(device)

        def wait_event(self, event: Any) -> None:
            used.append(event)

        def synchronize(self) -> None:
            used.append("waited")

    monkeypatch.setattr(staging, "_gpu", lambda _: torch.device("cuda", 1))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "device", lambda device: used.append(device) or nullcontext())
    state, event = {"w": torch.randn(3)}, object()
    copies = staging.Staging().copy(state, event)  # type: ignore[arg-type]
    assert used == [torch.device("cuda", 1), torch.device("cuda", 1), event, "waited"]
    assert torch.equal(copies["w"], state["w"])
