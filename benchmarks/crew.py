"""Contestants that are groups of processes and take turns: pinned, one thread each, talking through gloo.

A group's processes are started together, build what they train, and wait. A turn is one step of one group while all
others stand still: it lasts as long as its slowest process. So a machine whose speed drifts slows all alike.
"""

import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

Step = Callable[[int], Any]


class Turn(NamedTuple):
    """One step of a group: seconds of its slowest process, what its first process returned."""

    seconds: float
    value: Any


class Crew:
    """`size` processes in which `build(*arguments)` makes the function of the step's number that a turn calls."""

    def __init__(self, size: int, build: Callable[..., Step], *arguments: Any) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory()
        self.ends: list[Connection] = []
        self.steps = 0
        for rank in range(size):
            ours, theirs = spawn.Pipe()
            work = (rank, size, Path(self.folder.name) / "store", theirs, build, arguments)
            spawn.Process(target=_serve, args=work, daemon=True).start()
            self.ends.append(ours)

    def turn(self) -> Turn:
        """Take a step."""
        for end in self.ends:
            end.send(self.steps)
        self.steps += 1
        answers = [end.recv() for end in self.ends]
        return Turn(max(seconds for seconds, _ in answers), answers[0][1])

    def close(self) -> float:
        """Let the processes go; the largest memory of one of them, in GiB."""
        for end in self.ends:
            end.send(None)
        peak: float = max(end.recv() for end in self.ends)
        self.folder.cleanup()
        return peak


def _serve(rank: int, size: int, store: Path, end: Connection, build: Callable[..., Step], arguments: Any) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    import torch
    import torch.distributed as dist
    from torch.distributed import FileStore  # type: ignore[attr-defined]

    torch.set_num_threads(1)
    if size > 1:
        dist.init_process_group("gloo", store=FileStore(str(store), size), rank=rank, world_size=size)
    step = build(*arguments)
    while (number := end.recv()) is not None:
        if size > 1:
            dist.barrier()
        begin = time.perf_counter()
        value = step(number)
        end.send((time.perf_counter() - begin, value))
    end.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
