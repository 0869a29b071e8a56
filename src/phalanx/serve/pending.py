"""Jobs that were let in: what a request has of each until it is answered or left."""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from phalanx.serve.messages import Cancel, Job, Reply
from phalanx.serve.worker import TOO_LATE
from phalanx.serve.worker_handle import WorkerHandle

SLACK = 5.0  # seconds past its deadline in which a job may still be answered


class Refused(Exception):
    """A request that will not be done: the message, with an HTTP status, in how many seconds to come again, and which
    field of the request is to blame.
    """

    def __init__(self, status: int, message: str, after: float = 0.0, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.after, self.field = status, message, after, field


@dataclass
class Pace:
    """The seconds of a worker's time that one job takes, as those done lately show it; 0 before the first."""

    seconds: float = 0.0

    def learn(self, seconds: float, late: bool) -> None:
        """Learn from a job that was done, or was given up when it was late: it would have taken longer."""
        known = self.seconds
        self.seconds = 0.9 * known + 0.1 * (max(seconds, known) if late else seconds) if known else seconds


class Pending:
    """A job that a worker has. It yields the result in parts, and whether each is the last; Refused where there is
    none. Whoever has it closes it: a job that is left early is cancelled.
    """

    def __init__(self, worker: WorkerHandle, job: Job, pace: Pace) -> None:
        self.worker, self.job, self.pace = worker, job, pace
        self.began, self.ended = time.monotonic(), False
        self.replies = worker.waiting[job.number] = asyncio.Queue[Reply]()
        worker.beside[job.kind] += 1
        self.beside = worker.beside[job.kind]
        try:
            worker.send(job)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Wait no more; the second time this does nothing."""
        if self.worker.waiting.pop(self.job.number, None) is None:
            return
        self.worker.beside[self.job.kind] -= 1
        if not self.ended:
            self.worker.send(Cancel(self.job.number))

    async def __aiter__(self) -> AsyncIterator[tuple[Any, bool]]:
        while not self.ended:
            reply = await self._next()
            self.ended, now = reply.last, time.monotonic()

            # those that were beside it at its beginning and at its end shared the worker's time with it
            late = now >= self.job.deadline
            if reply.last and (reply.status == 200 or late):
                sharing = (self.beside + self.worker.beside[self.job.kind]) / 2
                self.pace.learn((now - self.began) / sharing, late)

            if reply.status != 200:
                raise Refused(reply.status, reply.result, 2 if reply.status == 503 else 0)
            yield reply.result, reply.last

    async def _next(self) -> Reply:
        """Return the reply that comes next, or one that refuses where that takes too long."""
        seconds = self.job.deadline + SLACK - time.monotonic()
        try:
            return await asyncio.wait_for(self.replies.get(), max(0.0, seconds))
        except TimeoutError:
            return Reply(self.job.number, TOO_LATE, status=503)
