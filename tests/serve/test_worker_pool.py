"""Who is let in and whose turn it is, without processes or models."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from phalanx.serve import worker
from phalanx.serve.jobs import Job, Reply
from phalanx.serve.worker import TOO_LATE, Worker
from phalanx.serve.worker_pool import Refused, WorkerHandle, WorkerPool
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

    def slow(_: Any, __: str, asked: list[Any]) -> list[str]:
        time.sleep(0.6)
        return [""] * len(asked)

    monkeypatch.setattr(worker, "compute", slow)
    options = {"tokens": 10, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "greedy": True, "seed": 0}
    jobs = [Job(n, "bert", "classify", {}, time.monotonic() + 60) for n in range(100)]
    text = Job(100, "gpt", "complete", {"prompt": "a", "options": options}, time.monotonic() + 60)
    pipe: Any = Pipe([*jobs, text])
    gpt, _ = scripted(lambda _: 5)
    turns = Worker({"bert": None, "gpt": gpt}, pipe)
    while len([reply for reply in pipe.replies if reply.last]) < 101:
        turns.turn()
    order = [reply.number for reply in pipe.replies if reply.last]
    assert order.index(100) == worker.BATCH  # after the first batch


class Still(WorkerHandle):
    """Computes nothing: every job is answered after a time that depends on its kind."""

    def start(self) -> None:
        self.models = {"m": {}}

    def send(self, message: Any) -> None:
        if isinstance(message, Job):
            late = message.kind == "complete"
            reply = Reply(message.number, TOO_LATE if late else "", status=503 if late else 200)
            self.loop.call_later(0.2 if late else 0.001, self._take, reply)


def asked(pool: WorkerPool, kind: str, count: int) -> Callable[[], Any]:
    """Statuses of jobs side by side."""

    async def one() -> int:
        try:
            await pool.ask("m", kind, {})
        except Refused as refused:
            return refused.status
        return 200

    return lambda: asyncio.gather(*(one() for _ in range(count)))


def test_who_would_be_late_is_not_let_in() -> None:
    """Of texts that came too late the pool learns, and refuses more of them at once; questions are no concern of it."""

    async def run() -> tuple[list[int], list[int], list[int]]:
        pool = WorkerPool([], [], 1, 1000, 0.2)
        pool.workers = [Still([], None, 1, asyncio.get_running_loop(), print)]
        first = await asked(pool, "complete", 20)()
        both = await asyncio.gather(asked(pool, "complete", 20)(), asked(pool, "classify", 20)())
        return first, *both

    first, texts, questions = asyncio.run(run())
    assert first == [503] * 20
    assert texts.count(429) > 4 and questions == [200] * 20


def test_one_process_that_fails_leaves_the_others() -> None:
    """The server ends where nobody has the models."""

    async def run() -> tuple[list[str], list[str]]:
        pool, ended = WorkerPool([], [], 1, 1000, 0.2), list[str]()
        pool.on_failure = lambda: ended.append(pool.failure)
        pool.workers = [Still([], None, 1, asyncio.get_running_loop(), print)]
        pool._failed("gone")
        before = [*ended]
        pool.workers = []
        pool._failed("gone too")
        return before, ended

    assert asyncio.run(run()) == ([], ["gone too"])


class Silent(Still):
    """A process that says nothing."""

    def send(self, message: Any) -> None:
        self.process: Any = self

    def kill(self) -> None:
        """Told of."""
        self.stopping = True


def test_a_process_that_says_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waited gets 503 a little after the deadline."""
    monkeypatch.setattr("phalanx.serve.worker_pool.SLACK", 0.05)

    async def run() -> tuple[list[int], bool, list[int], bool]:
        pool = WorkerPool([], [], 1, 1000, 0.05)
        worker = Silent([], None, 1, asyncio.get_running_loop(), print)
        pool.workers = [worker]
        first, alive = await asked(pool, "classify", 3)(), not worker.stopping
        worker.heard -= 1
        return first, alive, await asked(pool, "classify", 1)(), worker.stopping

    assert asyncio.run(run()) == ([503] * 3, True, [503], True)


def test_a_request_is_let_in_as_a_whole_or_not() -> None:
    async def run() -> list[int]:
        pool, found = WorkerPool([], [], 1, 4, 0.2), list[int]()
        pool.workers = [Still([], None, 1, asyncio.get_running_loop(), print)]
        for count in (4, 5):
            try:
                pool.admit("complete", count)
                found.append(200)
            except Refused as refused:
                found.append(refused.status)
        return found

    assert asyncio.run(run()) == [200, 400]
