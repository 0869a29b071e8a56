"""The processes that compute, as seen from the one that speaks: jobs go to the one with the least to do; one that dies
is started again, and whoever waited for it is told.
"""

import asyncio
import itertools
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

from phalanx.serve.jobs import Cancel, Failed, Job, Ready, Reply, Spec
from phalanx.serve.worker import TOO_LATE, work

LOST = "the process that computed this ended unexpectedly; it is being started again, try in a moment"
AGAIN = 1.0, 30.0  # seconds before a process that dies again and again is started again, doubled each time
LEAVE = 2.0  # seconds in which a process ends once it is told to
LASTED = 60.0  # seconds after which a death is the first again
SLACK = 5.0  # seconds past its deadline in which a job may still be answered
STUCK = 4  # budgets in which a process with jobs has said nothing: it is ended


class Refused(Exception):
    """A job that will not be done: what to tell, with an HTTP status, and when to come again."""

    def __init__(self, status: int, message: str, after: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.message, self.after = status, message, after


class WorkerHandle:
    """One process, its pipe, and who waits for it."""

    def __init__(self, specs: Sequence[Spec], device: int | None, threads: int, loop: asyncio.AbstractEventLoop,
                 failed: Callable[[str], None]) -> None:  # fmt: skip
        self.specs, self.device, self.threads, self.loop, self.failed = specs, device, threads, loop, failed
        self.models: dict[str, dict[str, Any]] = {}
        self.waiting: dict[int, asyncio.Queue[Reply]] = {}
        self.beside = {False: 0, True: 0}  # of them questions, and texts: the process gives each half of its time
        self.restarts, self.stopping, self.delay, self.loaded = 0, False, AGAIN[0], False
        self.heard = time.monotonic()
        self.send_lock = threading.Lock()
        self.start()

    def start(self) -> None:
        """A new process; a thread listens to it."""
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(self.specs, theirs, self.device, self.threads), daemon=True)
        with _ignoring_interrupts():
            self.process.start()
        theirs.close()
        self.began = self.heard = time.monotonic()
        threading.Thread(target=self._listen, args=(self.pipe,), daemon=True).start()

    def send(self, message: Job | Cancel | None) -> None:
        """Refused where the process is gone."""
        try:
            with self.send_lock:
                self.pipe.send(message)
        except OSError:
            raise Refused(503, LOST, 2) from None

    def stop(self) -> None:
        """No more jobs come."""
        self.stopping = True
        with suppress(Refused):
            self.send(None)

    def gone(self) -> None:
        """The process has ended, or is ended."""
        self.process.join(LEAVE)
        if self.process.is_alive():
            self.process.kill()
        self.pipe.close()

    def _listen(self, pipe: Connection) -> None:
        try:
            while True:
                message = pipe.recv()
                self.loop.call_soon_threadsafe(self._take, message)
        except (EOFError, OSError):
            if not self.stopping:
                self.loop.call_soon_threadsafe(self._lost)

    def _take(self, message: Ready | Failed | Reply) -> None:
        self.heard = time.monotonic()
        if isinstance(message, Failed):
            self.stopping = True  # it would fail again
            self.failed(message.message)
        elif isinstance(message, Ready):
            self.models, self.loaded = message.models, True
        elif message.number in self.waiting:
            self.waiting[message.number].put_nowait(message)

    def _lost(self) -> None:
        if not self.loaded:
            self._take(Failed("a process ended while it loaded the models; is there enough memory?"))
            return
        self.models = {}
        for number, queue in self.waiting.items():
            queue.put_nowait(Reply(number, LOST, status=503))
        self.restarts += 1
        lasted = time.monotonic() - self.began > LASTED
        self.delay = AGAIN[0] if lasted else min(2 * self.delay, AGAIN[1])
        self.loop.call_later(0 if lasted or self.restarts == 1 else self.delay, self._restart)

    def _restart(self) -> None:
        if not self.stopping:
            self.start()


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


class WorkerPool:
    """All processes. `queue` bounds the jobs that wait or are computed; `budget` is the seconds that a job may take."""

    def __init__(self, specs: Sequence[Spec], devices: Sequence[int | None], threads: int, queue: int, budget: float
                 ) -> None:  # fmt: skip
        self.specs, self.devices, self.threads, self.queue, self.budget = specs, devices, threads, queue, budget
        self.workers: list[WorkerHandle] = []
        self.numbers = itertools.count()
        self.failure = ""  # why the models cannot be loaded
        self.on_failure: Callable[[], None] = lambda: None
        self.pace = {False: 0.0, True: 0.0}  # seconds a question, and a text, takes of a process, lately

    def start(self) -> None:
        """In the running event loop."""
        loop = asyncio.get_running_loop()
        self.workers = [WorkerHandle(self.specs, device, self.threads, loop, self._failed) for device in self.devices]

    def _failed(self, message: str) -> None:
        if self.ready:
            print(f"phalanx: {message}; the other processes go on", file=sys.stderr, flush=True)
        else:
            self.failure = message
            self.on_failure()

    def stop(self) -> None:
        """Once nobody waits any more."""
        for worker in self.workers:
            worker.stop()
        for worker in self.workers:
            worker.gone()

    @property
    def ready(self) -> bool:
        """Whether some process has its models."""
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
                reply = await self._next(worker, number, replies, began + budget + SLACK)
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
                with suppress(Refused):
                    worker.send(Cancel(number))

    async def _next(self, worker: WorkerHandle, number: int, replies: asyncio.Queue[Reply], until: float) -> Reply:
        """What comes next; a process that has said nothing for too long is ended, and another started."""
        try:
            return await asyncio.wait_for(replies.get(), max(0.0, until - time.monotonic()))
        except TimeoutError:
            if time.monotonic() - worker.heard > STUCK * self.budget + SLACK:
                worker.process.kill()
            return Reply(number, TOO_LATE, status=503)

    def _learn(self, text: bool, pace: float, late: bool) -> None:
        """From a job that was done, or was given up when it was late: it would have taken longer."""
        known = self.pace[text]
        self.pace[text] = 0.9 * known + 0.1 * (max(pace, known) if late else pace) if known else pace

    def _least_busy(self) -> WorkerHandle:
        able = [worker for worker in self.workers if worker.models]
        if not able:
            raise Refused(503, "the models are being loaded; try in a moment", 2)
        return min(able, key=lambda worker: len(worker.waiting))
