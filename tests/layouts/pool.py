"""Ranks on demand: processes forked from one that has imported everything, which form a group and do a case.

They stay for the next case, of as many ranks or fewer, which then finds warm what the first touch of torch's own costs:
half of the time of a tiny run. Until then they are stopped: torch leaves threads of each group behind, which ask for
messages as long as the process runs. After a case that failed they are ended, and the next begins with fresh ones; so
it is after some cases, as these threads become many.
"""

import gc
import os
import signal
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch.distributed as dist

from phalanx.parent import end_with
from tests.train.processes import start

PATIENCE = 300  # seconds that a case may take
LIFE = 12  # cases that ranks do
GRACE = 10  # seconds for the others to speak after a rank has failed
UNCONNECTED = "connectFullMesh failed"  # a TCP connection that gloo lost while it formed a group

Answer = tuple[str, Any]  # what went wrong, what was returned


class Case(NamedTuple):
    """What a rank is told: where its group meets, how many it has, and what is to be called."""

    store: str
    processes: int
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Pool:
    """A context manager; `run(n, function, *arguments)` calls function(*arguments) on n ranks."""

    def __enter__(self) -> Self:
        self.folder = tempfile.TemporaryDirectory()
        self.number = self.cases = 0
        self.ranks = list[tuple[ForkServerProcess, Connection]]()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
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
        if self.cases == LIFE:
            self.end()
        self.number, self.cases = self.number + 1, self.cases + 1
        while len(self.ranks) < processes:
            ours, theirs = Pipe()
            self.ranks.append((start(_serve, theirs, len(self.ranks)), ours))
            theirs.close()

        ends = [end for _, end in self.ranks[:processes]]
        case = Case(str(Path(self.folder.name) / str(self.number)), processes, function, arguments)
        answers = [("no case was given", None)]
        try:
            self._signal(signal.SIGCONT, processes)
            for end in ends:
                end.send(case)
            answers = _answers(ends)
        finally:
            if any(error for error, _ in answers):
                self.end()
            self._signal(signal.SIGSTOP, processes)
        return answers

    def _signal(self, number: int, processes: int) -> None:
        """Send a signal to the ranks of a case."""
        for process, _ in self.ranks[:processes]:
            assert process.pid
            os.kill(process.pid, number)

    def end(self) -> None:
        """End all ranks: the next case has fresh ones."""
        for process, end in self.ranks:
            process.kill()
            process.join()
            end.close()
        self.ranks.clear()
        self.cases = 0


def _answers(ends: list[Connection]) -> list[Answer]:
    """One an end. Ranks that wait for one that failed are not waited for."""
    answers: dict[int, Answer] = {}
    until = time.monotonic() + PATIENCE
    while len(answers) < len(ends) and (left := until - time.monotonic()) > 0:
        for end in wait([end for rank, end in enumerate(ends) if rank not in answers], left):
            rank = ends.index(end)  # type: ignore[arg-type]
            try:
                answers[rank] = ends[rank].recv()
            except (EOFError, ConnectionResetError):
                answers[rank] = (f"rank {rank} died", None)
            if answers[rank][0]:
                until = min(until, time.monotonic() + GRACE)
    return [answers.get(rank, (f"rank {rank} gave no answer", None)) for rank in range(len(ends))]


def _serve(end: Connection, rank: int) -> None:
    """Do one case after the other, until none comes. A rank that is stopped cannot see that none will come."""
    end_with(os.getppid())
    while case := _next(end):
        try:
            if dist.is_initialized():  # of the case before, which all its ranks have done by now
                gc.collect()  # trainers in circles, which hold groups and so their threads
                dist.destroy_process_group()
            if case.processes > 1:
                store = dist.FileStore(case.store, case.processes)
                dist.init_process_group("gloo", store=store, rank=rank, world_size=case.processes)
            answer: Answer = "", case.function(*case.arguments)
        except BaseException:
            answer = f"rank {rank}: {traceback.format_exc()}", None
        end.send(answer)


def _next(end: Connection) -> Case | None:
    try:
        case: Case = end.recv()
    except EOFError:
        return None
    return case
