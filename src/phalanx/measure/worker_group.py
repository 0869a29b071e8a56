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
    """One step of a group: the seconds of its slowest process, and what each process returned."""

    seconds: float
    values: list[Any]


class WorkerGroup:
    """`size` processes in which `build(*arguments)` makes the function of the step's number that a turn calls.

    `build` is a function of a module, as the processes are new ones. What it or a step raises, the turn raises.
    """

    def __init__(self, size: int, build: Callable[..., Step], *arguments: Any, device: str = "cpu") -> None:
        server = multiprocessing.get_context("forkserver")  # imports torch once, for the processes of all groups
        server.set_forkserver_preload(["phalanx.measure.probes"])
        self.folder = tempfile.TemporaryDirectory()
        self.connections: list[Connection] = []
        self.processes = []
        self.steps = 0

        for rank in range(size):
            ours, theirs = server.Pipe()
            work = (rank, size, device, Path(self.folder.name) / "store", theirs, build, arguments)
            process = server.Process(target=_serve, args=work, daemon=True)
            process.start()
            theirs.close()
            self.connections.append(ours)
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
        """Run one step in all processes of the group."""
        results = self._call(self.steps)
        self.steps += 1
        return TimedStep(max(seconds for seconds, _ in results), [value for _, value in results])

    def close(self) -> float:
        """End the processes; return the largest memory of one of them, in GiB."""
        peak: float = max(self._call(None))
        self.__exit__(None, None, None)
        return peak

    def _call(self, number: int | None) -> list[Any]:
        """Have every process run step `number`, or None: say its memory. Return the results by rank.

        The first error ends the group, for the others may wait for that process.
        """
        for connection in self.connections:
            connection.send(number)
        results: dict[int, Any] = {}
        while len(results) < len(self.connections):
            for ready in wait([connection for rank, connection in enumerate(self.connections) if rank not in results]):
                rank = self.connections.index(cast("Connection", ready))
                results[rank] = self._receive(rank)
        return [results[rank] for rank in range(len(self.connections))]

    def _receive(self, rank: int) -> Any:
        try:
            result = self.connections[rank].recv()
        except EOFError:
            self.processes[rank].join()
            result = InputError(f"process {rank} of {len(self.connections)} was killed: was memory enough?")
        if isinstance(result, Exception):
            self.__exit__(None, None, None)
            raise result
        return result


def _serve(
    rank: int, size: int, device: str, store: Path, connection: Connection, build: Callable[..., Step], arguments: Any
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one who started us ends us
    try:
        step = _ready(rank, size, device, store, build, arguments)
        while (number := connection.recv()) is not None:
            connection.send(_timed(step, number, size))
        connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
    except InputError as error:
        connection.send(error)
    except Exception:
        connection.send(RuntimeError(f"process {rank} of {size}:\n{traceback.format_exc()}"))
    os._exit(0)  # the others may be gone, and a process group would wait for them


def _ready(rank: int, size: int, device: str, store: Path, build: Callable[..., Step], arguments: Any) -> Step:
    """Take a core or a GPU, join the others, and return the step that `build` makes."""
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
    """Return the seconds of a step that all begin together, and what it returned."""
    import torch
    import torch.distributed as dist

    if size > 1:
        dist.barrier()  # or who begins late would be waited for in the step's first collective

    begin = time.perf_counter()
    value = step(number)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # a step ends when its kernels have
        torch.cuda.synchronize()
    return time.perf_counter() - begin, value
