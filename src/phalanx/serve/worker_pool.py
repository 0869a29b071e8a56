"""The workers together: jobs go to the one with the least to do, a timer looks after all, and who asks too much is
refused.
"""

import asyncio
import itertools
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

from phalanx.serve.messages import Job, PerKind, WorkerSpec
from phalanx.serve.pending import SLACK, Pace, Pending, Refused
from phalanx.serve.scratch import Scratch
from phalanx.serve.worker import work
from phalanx.serve.worker_handle import WorkerHandle

STUCK = 4  # budgets in which a worker has said nothing: it is killed
QUIET = 3.0  # seconds in which a worker has said nothing: others get the jobs
LONGEST = 60.0  # seconds until who was refused may come again; what is under way then is done or given up by its budget
CHECK = 1.0  # seconds between looks at all workers, or a quarter of the budget where that is less
ATTEMPTS = 8  # starts of a worker in a row that failed, while no other works: the server ends


class WorkerPool:
    """All workers. `queue` bounds the jobs that wait or are computed; `budget` is the seconds that a job may take."""

    def __init__(
        self, specs: Sequence[WorkerSpec], devices: Sequence[int | None], threads: int, queue: int, budget: float
    ) -> None:
        self.queue, self.budget = queue, budget
        launches = [partial(WorkerProcess, specs, device, threads) for device in devices]
        starting = asyncio.Lock()
        self.workers = [WorkerHandle(launch, self._ended, starting) for launch in launches]
        self.tasks: list[asyncio.Task[None]] = []
        self.numbers = itertools.count()
        self.failure, self.restartable = "", False  # why the server must end; whether to start it again would do
        self.on_failure: Callable[[], None] = lambda: None
        self.pace = PerKind(Pace(), Pace())

    def start(self) -> None:
        """Begin, in the running event loop, to start the workers and to look after them."""
        self.tasks = [asyncio.create_task(run()) for run in (self._watch, *(worker.run for worker in self.workers))]
        for task in self.tasks:
            task.add_done_callback(self._done)

    async def stop(self) -> None:
        """End all workers, once nobody waits any more."""
        for worker in self.workers:
            worker.stopping = True
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    @property
    def ready(self) -> bool:
        """Whether some worker has its models."""
        return any(worker.models for worker in self.workers)

    @property
    def models(self) -> dict[str, dict[str, Any]]:
        """The models that can be asked, by name, and what each can do."""
        return next((worker.models for worker in self.workers if worker.models), {})

    @property
    def waiting(self) -> int:
        """How many jobs are under way."""
        return sum(len(worker.waiting) for worker in self.workers)

    async def ask(self, model: str, kind: str, asked: dict[str, Any], seconds: float | None = None) -> Any:
        """Return a job's whole result. Refused where it cannot be had."""
        [pending] = self.submit(model, kind, [asked], seconds)
        with closing(pending):
            async for result, _ in pending:
                whole = result
        return whole

    def submit(self, model: str, kind: str, asked: Sequence[dict[str, Any]], seconds: float | None = None
               ) -> list[Pending]:  # fmt: skip
        """Let in the jobs of one request, all or, with Refused, none, each to the worker that has the least to do.
        Nobody else has a turn between the decision and the last of them, so that all are counted for the next request.
        """
        self._admit(kind, len(asked), seconds)
        budget, admitted = min(seconds or self.budget, self.budget), list[Pending]()
        try:
            for fields in asked:
                job = Job(next(self.numbers), model, kind, fields, time.monotonic() + budget)
                admitted.append(Pending(self._least_busy(), job, self.pace[kind]))
        except BaseException:
            for pending in admitted:
                pending.close()
            raise
        return admitted

    def _admit(self, kind: str, count: int, seconds: float | None) -> None:
        """Raise Refused where so many jobs are too many, ever or now."""
        if count > self.queue:
            raise Refused(400, f"{count} texts are asked for at once, this server takes {self.queue}; ask for fewer")
        beside = self._least_busy().beside[kind]
        expected = self.pace[kind].seconds * (beside + 1)
        late = beside > 4 and expected > 0.7 * min(seconds or self.budget, self.budget)
        if self.waiting + count > self.queue or late:
            raise Refused(429, "too much is asked at once; try again", max(1.0, min(expected, self.budget, LONGEST)))

    def _least_busy(self) -> WorkerHandle:
        able = [worker for worker in self.workers if worker.models]
        if not able:
            raise Refused(503, "the models are being loaded; try in a moment", 2)
        return min(able, key=lambda worker: (worker.silence > QUIET, len(worker.waiting)))

    async def _watch(self) -> None:
        """Look after the workers, whether or not anyone waits for them."""
        seconds = min(CHECK, self.budget / 4)
        while True:
            await asyncio.sleep(seconds)
            for worker in self.workers:
                worker.check(seconds, STUCK * self.budget + SLACK)

    def _ended(self, worker: WorkerHandle, why: str) -> None:
        """Say that a worker has ended and is started again, or end the server where that is in vain."""
        if worker.failures and not any(each.loaded for each in self.workers):
            self._fail(why)  # the first start fails: the user's to mend
        elif worker.failures >= ATTEMPTS and not self.ready:
            self.restartable = True
            self._fail(f"{why}; that was start {worker.failures} in a row that failed, and no other worker is left: "
                       "the server ends, so that what supervises it can start it anew")  # fmt: skip
        else:
            print(f"phalanx: {why}; the server goes on and starts it again", file=sys.stderr, flush=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        """End the server where one of these tasks, which nobody awaits, ends by a defect: it must not go on without
        workers.
        """
        if not task.cancelled() and (error := task.exception()):
            traceback.print_exception(error)
            self.restartable = True
            self._fail("looking after the computing processes ended by a defect")

    def _fail(self, why: str) -> None:
        """Have the server end."""
        self.failure = self.failure or why
        for worker in self.workers:
            worker.stopping = True
        self.on_failure()


class WorkerProcess:
    """A worker's process at the other end of a socket, and its folder for temporary files, which goes when it has
    ended, however that came. OSError where it cannot be started.
    """

    def __init__(self, specs: Sequence[WorkerSpec], device: int | None, threads: int, pipe: socket.socket) -> None:
        self.scratch = Scratch()
        arguments = specs, pipe, device, threads, self.scratch.path, os.getpid()
        self.process = multiprocessing.get_context("spawn").Process(target=work, args=arguments, daemon=True)
        try:
            with _ignoring_interrupts():
                self.process.start()
        except BaseException:
            self.scratch.remove()
            raise

    def kill(self) -> None:
        """End it, stopped or not."""
        self.process.kill()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, at most so many seconds."""
        self.process.join(timeout)
        if not self.process.is_alive():
            self.scratch.remove()


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Let a process that is started in the block ignore Ctrl-C, which is for the one that starts it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
