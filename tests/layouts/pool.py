"""Ranks on demand: processes forked from one that has imported everything, which form a group and do a case."""

import tempfile
import traceback
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import torch.distributed as dist

from tests.train.processes import start

PATIENCE = 300  # seconds that a case may take


class Pool:
    """A context manager; `run(n, function, *arguments)` calls function(*arguments) on n ranks."""

    def __enter__(self) -> Self:
        self.folder = tempfile.TemporaryDirectory()
        self.number = 0
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.cleanup()

    def run(self, processes: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What each rank returned; AssertionError with what the failed ones say."""
        self.number += 1
        store = str(Path(self.folder.name) / str(self.number))
        ends, workers = [], []
        for rank in range(processes):
            ours, theirs = Pipe(duplex=False)
            workers.append(start(_do, theirs, store, rank, processes, function, arguments))
            theirs.close()
            ends.append(ours)
        try:
            answers = [_answer(end, rank) for rank, end in enumerate(ends)]
        finally:
            for worker in workers:
                worker.kill()
                worker.join()
        failures = [error for error, _ in answers if error]
        assert not failures, "\n".join(failures)
        return [result for _, result in answers]


def _answer(end: Connection, rank: int) -> tuple[str, Any]:
    if not end.poll(PATIENCE):
        raise TimeoutError(f"rank {rank} gave no answer in {PATIENCE} s")
    answer: tuple[str, Any] = end.recv()
    return answer


def _do(end: Connection, store: str, rank: int, processes: int, function: Callable[..., Any],
        arguments: tuple[Any, ...]) -> None:  # fmt: skip
    try:
        if processes > 1:
            dist.init_process_group("gloo", store=dist.FileStore(store, processes), rank=rank, world_size=processes)
        end.send(("", function(*arguments)))
        if processes > 1:
            dist.destroy_process_group()
    except BaseException:
        end.send((f"rank {rank}: {traceback.format_exc()}", None))
