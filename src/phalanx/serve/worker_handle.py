"""One worker as the process that speaks HTTP sees it: started, sent jobs, listened to, and started again when it ends.

Nothing here waits for the worker's process: what it has not taken yet lies in `outbox`, so that a stopped process keeps
neither the event loop nor other workers from their work.
"""

import asyncio
import pickle
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from phalanx.serve.messages import SIZE, Cancel, Failed, FromWorker, Job, PerKind, Ping, Pong, Ready, Reply, encode

LOST = "the process that computed this ended unexpectedly; it is being started again, try in a moment"
ENDED = "a process ended while it loaded the models; is there enough memory?"
LONGEST_DELAY = 30.0  # seconds before a process that ends again and again is started again: 0, 2, 4, … until then
LASTED = 60.0  # seconds after which an end is the first again
LEAVE = 2.0  # seconds in which a process ends once its socket is closed; then it is killed
LOADING = 60.0, 10.0  # seconds, and times what the first start took, that loading again may take
PING = -1  # a Ping's key in the outbox, where jobs and cancellations lie under the job's number


class Process(Protocol):
    """A worker's process, as its handle needs it."""

    def kill(self) -> None:
        """End it, stopped or not."""

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, at most so many seconds."""


class WorkerHandle:
    """A worker's process, what it is yet to be sent, and who waits for its replies.

    `launch` starts a process that speaks over a socket; it may raise OSError. `ended` is called with this handle and
    the reason after every end that nobody asked for; the process is started again unless `ended` sets `stopping`.
    Handles that share `starting` start their processes one after the other.
    """

    def __init__(
        self,
        launch: Callable[[socket.socket], Process],
        ended: Callable[["WorkerHandle", str], None],
        starting: asyncio.Lock,
    ) -> None:
        self.launch, self.ended, self.starting = launch, ended, starting
        self.process: Process | None = None
        self.models: dict[str, dict[str, Any]] = {}
        self.waiting: dict[int, asyncio.Queue[Reply]] = {}
        self.beside = PerKind(0, 0)  # how many of them are questions, and texts
        self.outbox: dict[int, bytes] = {}
        self.posted = asyncio.Event()
        self.pinged, self.silence = False, 0.0  # whether a Pong is owed; seconds since the worker said anything
        self.loaded, self.patience = False, float("inf")  # once; seconds that loading may take
        self.restarts = self.failures = self.short = 0  # all starts but the first; in a row: failed ones, brief lives
        self.stopping = False

    def send(self, message: Job | Cancel) -> None:
        """Leave a message for the worker. The cancellation of a job that it has not been sent yet takes that back."""
        if isinstance(message, Cancel) and message.number in self.outbox:
            del self.outbox[message.number]
        elif self.models:
            # packed here, so that a message that cannot be fails its own request
            self.outbox[message.number] = encode(message)
            self.posted.set()

    def check(self, seconds: float, limit: float) -> None:
        """Look after the process, every so many seconds: kill one that has sent nothing for longer than `limit`, or
        loads for ever; ask the others for a sign of life.

        Silence is the sum of these seconds rather than a difference of times, so that it does not grow while this
        process itself is stopped.
        """
        self.silence += seconds
        if self.process and self.silence > (limit if self.models else self.patience):
            self.process.kill()
        elif self.models and not self.pinged:
            self.pinged, self.outbox[PING] = True, encode(Ping())
            self.posted.set()

    async def run(self) -> None:
        """Start the process, and start it again when it ends, until it is to stop."""
        while not self.stopping:
            began = time.monotonic()
            self.failures += 1
            why = await self._live()
            for number, replies in self.waiting.items():
                replies.put_nowait(Reply(number, LOST, status=503))
            self.short = 1 if time.monotonic() - began > LASTED else self.short + 1
            self.ended(self, why)
            if not self.stopping:
                await asyncio.sleep(min(2.0 ** (self.short - 1), LONGEST_DELAY) if self.short > 1 else 0)
                self.restarts += 1

    async def _live(self) -> str:
        """Start the process and speak with it until it ends. Return why it did."""
        self.silence = 0.0
        try:
            ours, theirs = socket.socketpair()
            with ours:
                async with self.starting:  # the loop has turns between two starts, in which it may be told to end
                    with theirs:
                        self.process = self.launch(theirs)
                    reader, writer = await asyncio.open_connection(sock=ours, limit=1 << 20)

                try:
                    return await self._speak(reader, writer)
                finally:
                    writer.transport.abort()
        except OSError as error:
            return f"a process could not be started: {error.strerror or error}"
        finally:
            patience = LEAVE if self.models else 0.0  # one that still loads looks at its socket only when it is done
            self.models, self.outbox, self.pinged = {}, {}, False
            if process := self.process:
                self.process = None
                await asyncio.to_thread(_end, process, patience)

    async def _speak(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """Send and listen until the worker ends. Return why it did. A defect in either is raised, in an
        ExceptionGroup.
        """
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._send(writer))
            why = await self._listen(reader)
            sending.cancel()
        return why

    async def _listen(self, reader: asyncio.StreamReader) -> str:
        """Take what the worker sends until it ends. Return why it did."""
        began = time.monotonic()
        while True:
            try:
                size = await reader.readexactly(SIZE)
                message: FromWorker = pickle.loads(await reader.readexactly(int.from_bytes(size, "big")))
            except (asyncio.IncompleteReadError, OSError):
                return "a computing process ended unexpectedly" if self.models else ENDED

            self.silence = 0.0
            if isinstance(message, Failed):
                return message.message
            if isinstance(message, Ready):
                self.models, self.failures = message.models, 0
                if not self.loaded:
                    self.loaded, self.patience = True, LOADING[0] + LOADING[1] * (time.monotonic() - began)
            elif isinstance(message, Pong):
                self.pinged = False
            elif message.number in self.waiting:
                self.waiting[message.number].put_nowait(message)

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        """Send what lies in the outbox, as fast as the worker takes it."""
        with suppress(OSError):  # the worker has ended, which `_listen` sees too
            while True:
                await self.posted.wait()
                self.posted.clear()
                while self.outbox:
                    writer.write(self.outbox.pop(next(iter(self.outbox))))
                    await writer.drain()


def _end(process: Process, patience: float) -> None:
    """Wait for a process whose socket is closed; kill it where it does not end by itself in so many seconds."""
    process.join(patience)
    process.kill()
    process.join(LEAVE)
