"""Ranks on demand: processes forked from one that has imported everything, which form a group and do a case."""

import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Self

import torch.distributed as dist

from tests.train.processes import start

PATIENCE = 300  # seconds that a case may take
GRACE = 10  # seconds for the others to speak after a rank has failed
UNCONNECTED = "connectFullMesh failed"  # a TCP connection that gloo lost while it formed a group

Answer = tuple[str, Any]  # what went wrong, what was returned


class Pool:
    """A context manager; `run(n, function, *arguments)` calls function(*arguments) on n ranks."""

    def __enter__(self) -> Self:
        self.folder = tempfile.TemporaryDirectory()
        self.number = 0
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.cleanup()

    def run(self, processes: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What each rank returned; AssertionError with what the failed ones say. A group that gloo could not connect,
        before any case has begun to compute, is formed a second time."""
        answers = self._once(processes, function, arguments)
        if any(UNCONNECTED in error for error, _ in answers):
            warnings.warn("gloo lost a connection while it formed a group; once more", stacklevel=2)
            answers = self._once(processes, function, arguments)
        failures = [error for error, _ in answers if error]
        assert not failures, "\n".join(failures)
        return [result for _, result in answers]

    def _once(self, processes: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Answer]:
        self.number += 1
        store = str(Path(self.folder.name) / str(self.number))
        ends, workers = [], []
        for rank in range(processes):
            ours, theirs = Pipe(duplex=False)
            workers.append(start(_do, theirs, store, rank, processes, function, arguments))
            theirs.close()
            ends.append(ours)
        try:
            return _answers(ends)
        finally:
            for worker in workers:
                worker.kill()
                worker.join()


def _answers(ends: list[Connection]) -> list[Answer]:
    """One an end. Ranks that wait for one that failed are not waited for."""
    answers: dict[int, Answer] = {}
    until = time.monotonic() + PATIENCE
    while len(answers) < len(ends) and (left := until - time.monotonic()) > 0:
        for end in wait([end for rank, end in enumerate(ends) if rank not in answers], left):
            rank = ends.index(end)  # type: ignore[arg-type]
            try:
                answers[rank] = ends[rank].recv()
            except EOFError:
                answers[rank] = (f"rank {rank} died", None)
            if answers[rank][0]:
                until = min(until, time.monotonic() + GRACE)
    return [answers.get(rank, (f"rank {rank} gave no answer", None)) for rank in range(len(ends))]


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
