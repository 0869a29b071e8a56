"""Processes that stay: a case asks for some of them, they form a group, do it, and part again."""

import gc
import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist

PROCESSES = 8
PATIENCE = 120  # seconds that a case may take


class Pool:
    """A context manager; `run(n, function, *arguments)` calls function(*arguments) on ranks 0 to n - 1."""

    def __enter__(self) -> Self:
        spawn = multiprocessing.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory()
        self.number = 0
        self.ends: list[Connection] = []
        self.workers = []
        for rank in range(PROCESSES):
            ours, theirs = spawn.Pipe()
            worker = spawn.Process(target=_serve, args=(rank, theirs), daemon=True)
            worker.start()
            self.ends.append(ours)
            self.workers.append(worker)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.kill()
        self.folder.cleanup()

    def run(self, processes: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What each rank returned; the first rank's error that is not of a lost neighbour is raised."""
        self.number += 1
        store = Path(self.folder.name) / str(self.number)
        for end in self.ends[:processes]:
            end.send((str(store), processes, function, arguments))
        answers = []
        for rank, end in enumerate(self.ends[:processes]):
            if not end.poll(PATIENCE):
                raise TimeoutError(f"rank {rank} of {processes} gave no answer in {PATIENCE} s")
            answers.append(end.recv())
        failures = [error for error, _ in answers if error]
        assert not failures, "\n".join(failures)
        return [result for _, result in answers]


def _serve(rank: int, end: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        store, processes, function, arguments = end.recv()
        try:
            if processes > 1:
                dist.init_process_group("gloo", store=dist.FileStore(store, processes), rank=rank, world_size=processes)
            end.send(("", function(*arguments)))
        except BaseException:
            end.send((f"rank {rank}: {traceback.format_exc()}", None))
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()
            gc.collect()  # a trainer is a ring of references, and gloo's threads live as long as its groups
