"""Who is let in, whose turn it is, and which workers are started again; without processes or models."""

import asyncio
import errno
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from pickle import PicklingError
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from phalanx.parent import end_with
from phalanx.serve import worker
from phalanx.serve.messages import Cancel, Job, Ping, Pong, Ready, Reply, decode, encode
from phalanx.serve.openai import Completing, first_refused
from phalanx.serve.pending import Refused
from phalanx.serve.schemas import Completion
from phalanx.serve.worker import TOO_LATE, Worker
from phalanx.serve.worker_handle import WorkerHandle
from phalanx.serve.worker_pool import ATTEMPTS, WorkerPool, WorkerProcess
from tests.infer.runs import scripted


class Pipe:
    """What was asked, and what was said."""

    def __init__(self, jobs: list[Job]) -> None:
        self.jobs, self.replies = deque(jobs), list[Reply]()

    def poll(self) -> bool:
        return bool(self.jobs)

    def recv(self) -> Job:
        return self.jobs.popleft()

    def send(self, reply: Reply) -> None:
        self.replies.append(reply)


def test_texts_and_questions_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a batch of questions takes, a text gets as much time after it, not one token."""
    clock = count(0.0, 0.001)  # a look at it takes a millisecond, and nothing else any time

    def slow(_: Any, __: str, asked: list[Any]) -> list[str]:
        for _ in range(600):
            next(clock)
        return [""] * len(asked)

    monkeypatch.setattr(worker, "compute", slow)
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    options = {"max_tokens": 10, "temperature": 0, "top_k": 0, "top_p": 1.0, "seed": 0}
    jobs = [Job(n, "bert", "classify", {}, 60) for n in range(100)]
    text = Job(100, "gpt", "complete", {"prompt": "a", "options": options}, 60)
    pipe: Any = Pipe([*jobs, text])
    gpt, _ = scripted(lambda _: 5)
    turns = Worker({"bert": None, "gpt": gpt}, pipe)
    while len([reply for reply in pipe.replies if reply.last]) < 101:
        turns.turn()
    order = [reply.number for reply in pipe.replies if reply.last]
    assert order.index(100) == worker.BATCH  # after the first batch


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_stopped_worker_ends_with_its_server() -> None:
    told, tell = os.pipe()
    if not (server := os.fork()):
        if child := os.fork():
            os.waitpid(child, os.WUNTRACED)  # until it has stopped
            os.write(tell, str(child).encode())
            os.kill(os.getpid(), signal.SIGKILL)
        end_with(os.getppid())
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(1)
    os.waitpid(server, 0)
    stat = Path(f"/proc/{os.read(told, 20).decode()}/stat")
    deadline = time.monotonic() + 60
    with suppress(FileNotFoundError):
        while "Z" not in stat.read_text().split():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_worker_leaves_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    process: Any = type("Process", (), {"start": lambda _: None, "join": lambda *_: None, "is_alive": lambda _: alive})
    monkeypatch.setattr("multiprocessing.get_context", lambda _: SimpleNamespace(Process=lambda **_: process()))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        made, alive = WorkerProcess([], None, 1, theirs), True
        made.join(0)
        assert Path(made.scratch.path).is_dir()
        alive = False
        made.join(0)
        assert not Path(made.scratch.path).exists()
        made.join(0)


class Still(WorkerHandle):
    """Computes nothing: every job is answered after a time that depends on its kind."""

    def __init__(self) -> None:
        super().__init__(Fake, lambda *_: None, asyncio.Lock())
        self.models = {"m": {}}

    def send(self, message: Job | Cancel) -> None:
        if isinstance(message, Job):
            late = message.kind == "complete"
            reply = Reply(message.number, TOO_LATE if late else "", status=503 if late else 200)
            asyncio.get_running_loop().call_later(0.2 if late else 0.001, self.waiting[reply.number].put_nowait, reply)


class Fake:
    """A worker's process that is a thread: it loads at once and answers every job, or takes nothing while `stopped`."""

    def __init__(self, pipe: socket.socket, stopped: bool = False) -> None:
        self.pipe, self.stopped, self.killed = pipe.dup(), stopped, threading.Event()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def kill(self) -> None:
        self.killed.set()
        with suppress(OSError):
            self.pipe.shutdown(socket.SHUT_RDWR)

    def join(self, timeout: float | None = None) -> None:
        if not self.stopped or self.killed.is_set():
            self.thread.join(timeout)

    def _work(self) -> None:
        with self.pipe, suppress(EOFError, OSError), self.pipe.makefile("rb") as stream:
            self.pipe.sendall(encode(Ready({"m": {}})))
            if self.stopped:
                self.killed.wait()
                return
            while True:
                message = decode(stream)
                answer = Pong() if isinstance(message, Ping) else Reply(message.number, "done")
                self.pipe.sendall(encode(answer))


def pool_of(*launches: Callable[[socket.socket], Any], budget: float = 0.2) -> WorkerPool:
    pool = WorkerPool([], [None] * len(launches), 1, 1000, budget)
    for handle, launch in zip(pool.workers, launches, strict=True):
        handle.launch = launch
    return pool


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.005)


def statuses(pool: WorkerPool, kind: str, count: int, asked: dict[str, Any] | None = None) -> asyncio.Future[list[int]]:
    """Of jobs side by side."""

    async def one() -> int:
        try:
            await pool.ask("m", kind, asked or {})
        except Refused as refused:
            return refused.status
        return 200

    return asyncio.gather(*(one() for _ in range(count)))


def test_who_would_be_late_is_not_let_in() -> None:
    """Of texts that came too late the pool learns, and refuses more of them at once; questions are no concern of it."""

    async def run() -> tuple[list[int], list[int], list[int]]:
        pool = pool_of()
        pool.workers = [Still()]
        first = await statuses(pool, "complete", 20)
        both = await asyncio.gather(statuses(pool, "complete", 20), statuses(pool, "classify", 20))
        return first, *both

    first, texts, questions = asyncio.run(run())
    assert first == [503] * 20
    assert texts.count(429) > 4 and questions == [200] * 20


@pytest.mark.parametrize(("budget", "after"), [(0.2, 1.0), (30.0, 30.0), (3600.0, 60.0)])
def test_when_to_come_again_is_bounded(budget: float, after: float) -> None:
    """However long the jobs under way take, they end by their budget; a client that is told hours does not come."""

    async def run() -> float:
        pool = WorkerPool([], [], 1, 1, budget)
        pool.workers, pool.pace["complete"].seconds = [Still()], 1e6
        pool.submit("m", "complete", [{}])
        with pytest.raises(Refused) as refused:
            pool.submit("m", "complete", [{}])
        assert refused.value.status == 429
        return refused.value.after

    assert asyncio.run(run()) == after


def test_a_request_is_let_in_as_a_whole_or_not() -> None:
    """What was let in counts for the next at once, before any of it has had a turn, and no more once it is closed."""

    async def run() -> None:
        pool = WorkerPool([], [], 1, 8, 0.2)
        pool.workers = [Still()]

        def submitted(count: int) -> list[Any] | int:
            try:
                return list(pool.submit("m", "complete", [{}] * count))
            except Refused as refused:
                return refused.status

        assert submitted(9) == 400
        first = submitted(8)
        assert isinstance(first, list) and pool.waiting == 8
        assert submitted(1) == 429
        for pending in [*first, *first]:
            pending.close()
        assert pool.waiting == 0 and pool.workers[0].beside["complete"] == 0
        assert isinstance(submitted(1), list)

    asyncio.run(run())


def test_requests_at_once_do_not_fill_the_queue_twice() -> None:
    """Ten requests of eight prompts each, and room for eight: one is let in."""
    asked = Completion(model="m", prompt=["a"] * 8)

    async def run(streamed: bool) -> tuple[list[int], int]:
        pool, most = WorkerPool([], [], 1, 8, 60), 0
        pool.workers = [Still()]

        async def one() -> int:
            nonlocal most
            completing = Completing(pool, "m", asked)
            try:
                await (anext(completing.events()) if streamed else completing.whole())
            except ExceptionGroup as group:
                return first_refused(group).status
            except Refused as refused:
                return refused.status
            return 200

        tasks = [asyncio.create_task(one()) for _ in range(10)]
        for _ in range(4):
            await asyncio.sleep(0)
            most = max(most, pool.waiting)
        found = await asyncio.gather(*tasks)
        await until(lambda: pool.waiting == 0)
        return found, most

    for streamed in (False, True):
        found, most = asyncio.run(run(streamed))
        assert most == 8 and sorted(found) == [429] * 9 + [503]


def test_a_stopped_worker_holds_nobody_up() -> None:
    """More is sent than its socket holds: the other worker answers meanwhile, and what nobody waits for is not kept.
    Those that wait for it get 503 once it is found to be silent and killed; it is started again.
    """
    lives = iter([True, False])

    async def run() -> None:
        pool = pool_of(lambda pipe: Fake(pipe, stopped=next(lives)), Fake, budget=60)
        pool.start()
        stopped, other = pool.workers
        await until(lambda: bool(stopped.models and other.models))
        stopped.silence = other.silence = 0
        asking = statuses(pool, "classify", 24, {"text": "a" * 190_000})
        await until(lambda: len(stopped.waiting) == 12 and not other.waiting)
        stopped.send(Job(99, "m", "classify", {}, 0))
        assert 99 in stopped.outbox
        stopped.send(Cancel(99))
        assert 99 not in stopped.outbox
        stopped.check(1e9, 1)
        assert sorted(await asking) == [200] * 12 + [503] * 12
        await until(lambda: stopped.restarts == 1 and bool(stopped.models))
        assert other.restarts == 0 and await statuses(pool, "classify", 2) == [200, 200]
        await pool.stop()

    asyncio.run(run())


def test_silence_is_seen_though_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phalanx.serve.worker_pool.SLACK", 0.0)
    lives = iter([True])

    async def run() -> None:
        pool = pool_of(lambda pipe: Fake(pipe, stopped=next(lives, False)), budget=0.02)
        pool.start()
        await until(lambda: pool.workers[0].restarts == 1)
        await pool.stop()

    asyncio.run(run())


def test_a_silent_worker_gets_no_jobs_while_another_speaks() -> None:
    async def run() -> None:
        pool = pool_of()
        quiet, other = pool.workers = [Still(), Still()]
        quiet.silence = 10
        assert {pool._least_busy() for _ in range(3)} == {other}
        other.silence = 10
        assert pool._least_busy() is quiet

    asyncio.run(run())


def test_stopped_workers_do_not_keep_the_pool_from_ending() -> None:
    async def run() -> None:
        pool = pool_of(*[lambda pipe: Fake(pipe, stopped=True)] * 3, budget=60)
        pool.start()
        await until(lambda: all(worker.models for worker in pool.workers))
        asking = statuses(pool, "classify", 9, {"text": "a" * 190_000})
        await asyncio.sleep(0)
        await pool.stop()
        asking.cancel()

    asyncio.run(run())


def unable(_: socket.socket) -> Any:
    raise OSError(errno.EMFILE, "Too many open files")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts that fail follow each other at once."""
    monkeypatch.setattr("phalanx.serve.worker_handle.LONGEST_DELAY", 0.001)


@pytest.mark.usefixtures("quick")
def test_a_start_that_fails_is_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    """A few times, while nobody else has the models."""
    launches = iter([Fake, unable, unable, Fake])

    async def run() -> None:
        pool = pool_of(lambda pipe: next(launches)(pipe))
        pool.start()
        await until(lambda: pool.ready)
        assert pool.workers[0].process
        pool.workers[0].process.kill()
        await until(lambda: pool.workers[0].restarts == 3 and pool.ready)
        assert await statuses(pool, "classify", 1) == [200] and not pool.failure
        await pool.stop()

    asyncio.run(run())
    assert capsys.readouterr().err.count("could not be started: Too many open files; the server goes on") == 2


@pytest.mark.usefixtures("quick")
def test_starts_that_always_fail_end_the_server() -> None:
    """Where no other worker is left; at the first start the first failure does."""

    async def failure(*launches: Callable[[socket.socket], Any]) -> tuple[int, str, bool]:
        given = iter(launches)
        pool, ended = pool_of(lambda pipe: next(given, unable)(pipe)), asyncio.Event()
        pool.on_failure = ended.set
        pool.start()
        if launches:
            await until(lambda: pool.ready)
            assert pool.workers[0].process
            pool.workers[0].process.kill()
        async with asyncio.timeout(60):
            await ended.wait()
        await pool.stop()
        return pool.workers[0].restarts, pool.failure, pool.restartable

    restarts, why, restartable = asyncio.run(failure(Fake))
    assert restarts == ATTEMPTS and restartable and "Too many open files; that was start 8 in a row" in why
    assert asyncio.run(failure()) == (0, "a process could not be started: Too many open files", False)


@pytest.mark.usefixtures("quick")
def test_one_process_that_fails_leaves_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    """It is tried again for as long as they work."""

    async def run() -> None:
        pool = pool_of(Fake, Fake)
        pool.start()
        await until(lambda: all(worker.models for worker in pool.workers))
        failing = pool.workers[0]
        failing.launch = unable
        assert failing.process
        failing.process.kill()
        await until(lambda: failing.restarts > 2 * ATTEMPTS)
        assert await statuses(pool, "classify", 1) == [200] and not pool.failure
        failing.launch = Fake
        await until(lambda: bool(failing.models))
        await pool.stop()

    asyncio.run(run())
    assert "computing process ended unexpectedly; the server goes on" in capsys.readouterr().err


def test_loading_again_has_an_end() -> None:
    """A worker that is stopped while it loads the models once more would be waited for for ever."""
    worker, killed = Still(), list[bool]()
    worker.process: Any = type("Process", (), {"kill": lambda _: killed.append(True)})()
    worker.models = {}
    worker.check(1e6, 1.0)
    worker.patience, worker.silence = 90.0, 0.0
    worker.check(89.0, 1.0)
    assert not killed
    worker.check(2.0, 1.0)
    assert killed


def test_what_cannot_be_sent_fails_its_own_request() -> None:
    """The worker goes on with the others."""

    async def run() -> None:
        pool = pool_of(Fake, budget=60)
        pool.start()
        await until(lambda: pool.ready)
        with pytest.raises((AttributeError, TypeError, PicklingError)):
            await pool.ask("m", "classify", {"text": lambda: None})
        assert pool.waiting == 0 and pool.workers[0].beside["classify"] == 0
        assert await statuses(pool, "classify", 1) == [200] and pool.workers[0].restarts == 0
        await pool.stop()

    asyncio.run(run())


def test_a_defect_in_sending_ends_the_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rather than leave a worker that gets nothing any more."""

    async def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(WorkerHandle, "_send", fail)

    async def run() -> None:
        pool, ended = pool_of(Fake), asyncio.Event()
        pool.on_failure = ended.set
        pool.start()
        async with asyncio.timeout(60):
            await ended.wait()
        assert pool.restartable and "ended by a defect" in pool.failure
        await pool.stop()

    asyncio.run(run())
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_socket_that_cannot_be_opened_leaves_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(sock: socket.socket, **_: Any) -> None:
        made.append(sock)
        raise OSError(errno.EMFILE, "Too many open files")

    made, pair = list[socket.socket](), socket.socketpair

    def kept() -> Any:
        made.extend(both := pair())
        return both

    async def run() -> None:
        pool = pool_of(Fake)
        monkeypatch.setattr(asyncio, "open_connection", refuse)
        monkeypatch.setattr(socket, "socketpair", kept)
        why = await pool.workers[0]._live()
        assert "Too many open files" in why and all(each.fileno() == -1 for each in made)

    asyncio.run(run())


class Loading(Fake):
    """A worker's process that loads for ever, and does not look at its socket meanwhile."""

    waited: ClassVar[list[float | None]] = []  # seconds for which it was waited for before it was killed

    def _work(self) -> None:
        with self.pipe:
            self.killed.wait()

    def join(self, timeout: float | None = None) -> None:
        if self.killed.is_set():
            self.thread.join()
        else:
            self.waited.append(timeout)


def test_a_server_that_starts_workers_ends_when_told() -> None:
    """The loop has a turn between two starts; those that load are not waited for, and no more are started."""
    Loading.waited.clear()
    launched = list[Loading]()

    async def run() -> None:
        told = asyncio.Event()

        def launch(pipe: socket.socket) -> Loading:
            asyncio.get_running_loop().call_soon(told.set)
            launched.append(Loading(pipe))
            return launched[-1]

        pool = pool_of(*[launch] * 50)
        pool.start()
        await told.wait()
        await pool.stop()

    asyncio.run(run())
    assert len(launched) < 5 and all(process.killed.is_set() for process in launched)
    assert set(Loading.waited) <= {0.0}
