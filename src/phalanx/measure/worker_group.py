"""Groups of processes that take turns: a core and a thread each, or a GPU each.

A group's processes are started together, join as those of a run do, build what they work on, and wait. A turn is one
step of one group while all others stand still: it lasts as long as its slowest process. So a machine whose speed drifts
slows all groups alike.
"""

import multiprocessing
import os
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

from phalanx.errors import InputError

Step = Callable[[int], Any]


class TimedStep(NamedTuple):
    """One step of a group: seconds of its slowest process, what each process returned."""

    seconds: float
    values: list[Any]


class WorkerGroup:
    """`size` processes in which `build(*arguments)` makes the function of the step's number that a turn calls.

    `build` is a function of a module, as the processes are new ones. What it or a step raises, the turn raises.
    """

    def __init__(self, size: int, build: Callable[..., Step], *arguments: Any, device: str = "cpu") -> None:
        server = multiprocessing.get_context("forkserver")  # imports torch once, for the processes of all crews
        server.set_forkserver_preload(["phalanx.measure.probes"])
        self.folder = tempfile.TemporaryDirectory()
        self.ends: list[Connection] = []
        self.processes = []
        self.steps = 0
        for rank in range(size):
            ours, theirs = server.Pipe()
            work = (rank, size, device, Path(self.folder.name) / "store", theirs, build, arguments)
            process = server.Process(target=_serve, args=work, daemon=True)
            process.start()
            theirs.close()
            self.ends.append(ours)
            self.processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
        self.folder.cleanup()

    def turn(self) -> TimedStep:
        """Run one step in all processes of the group: its seconds, and what each process returned."""
        answers = self._ask(self.steps)
        self.steps += 1
        return TimedStep(max(seconds for seconds, _ in answers), [value for _, value in answers])

    def close(self) -> float:
        """Let the processes go; the largest memory of one of them, in GiB."""
        peak: float = max(self._ask(None))
        self.__exit__(None, None, None)
        return peak

    def _ask(self, question: int | None) -> list[Any]:
        """The answers of all; the first error ends the group, for the others may wait for that process."""
        for end in self.ends:
            end.send(question)
        answers: dict[int, Any] = {}
        while len(answers) < len(self.ends):
            for ready in wait([end for rank, end in enumerate(self.ends) if rank not in answers]):
                rank = self.ends.index(cast("Connection", ready))
                answers[rank] = self._answer(rank)
        return [answers[rank] for rank in range(len(self.ends))]

    def _answer(self, rank: int) -> Any:
        try:
            answer = self.ends[rank].recv()
        except EOFError:
            self.processes[rank].join()
            answer = InputError(f"process {rank} of {len(self.ends)} was killed: was memory enough?")
        if isinstance(answer, Exception):
            self.__exit__(None, None, None)
            raise answer
        return answer


def _serve(
    rank: int, size: int, device: str, store: Path, end: Connection, build: Callable[..., Step], arguments: Any
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started us ends us
    try:
        step = _ready(rank, size, device, store, build, arguments)
        while (number := end.recv()) is not None:
            end.send(_timed(step, number, size))
        end.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    except InputError as error:
        end.send(error)
    except Exception:
        end.send(RuntimeError(f"process {rank} of {size}:\n{traceback.format_exc()}"))
    os._exit(0)  # the others may be gone, and a process group would wait for them


def _ready(rank: int, size: int, device: str, store: Path, build: Callable[..., Step], arguments: Any) -> Step:
    """Take a core or a GPU, join the others, build."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    os.environ.update({name: str(value) for name, value in places.items()}, MASTER_ADDR="127.0.0.1")
    os.environ.update(GLOO_SOCKET_IFNAME="lo", TRANSFORMERS_VERBOSITY="error")
    import torch
    from torch.distributed import FileStore  # type: ignore[attr-defined]

    from phalanx.runtime import process_group

    if device == "cpu":  # only now: groups that start together import on all cores
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    process_group.join(torch.device(device), FileStore(str(store), size) if size > 1 else None)
    return build(*arguments)


def _timed(step: Step, number: int, size: int) -> tuple[float, Any]:
    """Seconds of a step that all begin together, and what it returned."""
    import torch
    import torch.distributed as dist

    if size > 1:
        dist.barrier()
    begin = time.perf_counter()
    value = step(number)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return time.perf_counter() - begin, value
