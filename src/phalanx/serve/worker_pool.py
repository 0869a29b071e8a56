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
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

from phalanx.serve.jobs import Cancel, Job, Reply, Spec
from phalanx.serve.worker import TOO_LATE, work
from phalanx.serve.worker_handle import WorkerHandle

SLACK = 5.0  # seconds past its deadline in which a job may still be answered
STUCK = 4  # budgets in which a worker has said nothing: it is killed
QUIET = 3.0  # seconds in which a worker has said nothing: others get the jobs
CHECK = 1.0  # seconds between looks at all workers, or a quarter of the budget where that is less
ATTEMPTS = 8  # starts of a worker in a row that failed, while no other works: the server ends


class Refused(Exception):
    """A job that will not be done: what to tell, with an HTTP status, and when to come again."""

    def __init__(self, status: int, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.message, self.after = status, message, after


class WorkerPool:
    """All workers. `queue` bounds the jobs that wait or are computed; `budget` is the seconds that a job may take."""

    def __init__(self, specs: Sequence[Spec], devices: Sequence[int | None], threads: int, queue: int, budget: float
                 ) -> None:  # fmt: skip
        self.queue, self.budget = queue, budget
        self.workers = [WorkerHandle(partial(WorkerProcess, specs, device, threads), self._ended) for device in devices]
        self.tasks: list[asyncio.Task[None]] = []
        self.numbers = itertools.count()
        self.failure, self.gave_up = "", False  # why the server must end; whether it once served
        self.on_failure: Callable[[], None] = lambda: None
        self.pace = {False: 0.0, True: 0.0}  # seconds a question, and a text, takes of a worker, lately

    def start(self) -> None:
        """In the running event loop."""
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
        """What can be asked, by name."""
        return next((worker.models for worker in self.workers if worker.models), {})

    @property
    def waiting(self) -> int:
        """Jobs under way."""
        return sum(len(worker.waiting) for worker in self.workers)

    async def ask(self, model: str, kind: str, asked: dict[str, Any], seconds: float | None = None) -> Any:
        """A job's whole result. Refused where it cannot be had."""
        async for result, _ in self.stream(model, kind, asked, seconds):
            found = result
        return found

    def admit(self, kind: str, count: int = 1, seconds: float | None = None) -> None:
        """Refused where so many jobs are too many, ever or now."""
        if count > self.queue:
            raise Refused(400, f"{count} texts are asked for at once, this server takes {self.queue}; ask for fewer")
        worker, text = self._least_busy(), kind == "complete"
        expected = self.pace[text] * (worker.beside[text] + 1)
        late = worker.beside[text] > 4 and expected > 0.7 * min(seconds or self.budget, self.budget)
        if self.waiting + count > self.queue or late:
            raise Refused(429, "too much is asked at once; try again", max(1.0, expected))

    async def stream(
        self, model: str, kind: str, asked: dict[str, Any], seconds: float | None = None, admitted: bool = False
    ) -> AsyncIterator[tuple[Any, bool]]:
        """A job's result in parts, and whether each is the last. Left early, the job is cancelled."""
        if not admitted:
            self.admit(kind, 1, seconds)
        worker, text = self._least_busy(), kind == "complete"
        budget = min(seconds or self.budget, self.budget)
        number, replies = next(self.numbers), asyncio.Queue[Reply]()
        worker.waiting[number] = replies
        worker.beside[text] += 1
        began, last, beside = time.monotonic(), False, worker.beside[text]
        try:
            worker.send(Job(number, model, kind, asked, began + budget))
            while not last:
                reply = await _next(number, replies, began + budget + SLACK)
                last = reply.last
                took = time.monotonic() - began
                if last and (reply.status == 200 or took >= budget):
                    self._learn(text, took / (beside + worker.beside[text]) * 2, took >= budget)
                if reply.status != 200:
                    raise Refused(reply.status, reply.result, 2 if reply.status == 503 else 0)
                yield reply.result, last
        finally:
            del worker.waiting[number]
            worker.beside[text] -= 1
            if not last:
                worker.send(Cancel(number))

    def _learn(self, text: bool, pace: float, late: bool) -> None:
        """From a job that was done, or was given up when it was late: it would have taken longer."""
        known = self.pace[text]
        self.pace[text] = 0.9 * known + 0.1 * (max(pace, known) if late else pace) if known else pace

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
        """A worker has ended: it is started again, unless that is in vain."""
        if worker.failures and not any(each.loaded for each in self.workers):
            self._fail(why)  # the first start fails: the user's to mend
        elif worker.failures >= ATTEMPTS and not self.ready:
            self.gave_up = True
            self._fail(f"{why}; that was start {worker.failures} in a row that failed, and no other worker is left: "
                       "the server ends, so that what supervises it can start it anew")  # fmt: skip
        else:
            print(f"phalanx: {why}; the server goes on and starts it again", file=sys.stderr, flush=True)

    def _done(self, task: asyncio.Task[None]) -> None:
        """Nobody awaits these tasks: one that ends by a defect must not leave a server without workers."""
        if not task.cancelled() and (error := task.exception()):
            traceback.print_exception(error)
            self.gave_up = True
            self._fail("looking after the computing processes ended by a defect")

    def _fail(self, why: str) -> None:
        """The server must end."""
        self.failure = self.failure or why
        for worker in self.workers:
            worker.stopping = True
        self.on_failure()


async def _next(number: int, replies: asyncio.Queue[Reply], until: float) -> Reply:
    """What comes next; a refusal where that takes too long."""
    try:
        return await asyncio.wait_for(replies.get(), max(0.0, until - time.monotonic()))
    except TimeoutError:
        return Reply(number, TOO_LATE, status=503)


class WorkerProcess:
    """A worker's process at the other end of a socket, and its folder for temporary files, which goes when it has
    ended, however that came. OSError where it cannot be started.
    """

    def __init__(self, specs: Sequence[Spec], device: int | None, threads: int, pipe: socket.socket) -> None:
        self.scratch = TemporaryDirectory(prefix="phalanx-", ignore_cleanup_errors=True)
        arguments = specs, pipe, device, threads, self.scratch.name, os.getpid()
        self.process = multiprocessing.get_context("spawn").Process(target=work, args=arguments, daemon=True)
        try:
            with _ignoring_interrupts():
                self.process.start()
        except BaseException:
            self.scratch.cleanup()
            raise

    def kill(self) -> None:
        """End it, stopped or not."""
        self.process.kill()

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, at most so many seconds."""
        self.process.join(timeout)
        if not self.process.is_alive():
            self.scratch.cleanup()


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """For a process that begins: Ctrl-C is for the one that started it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
