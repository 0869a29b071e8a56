"""uvicorn with a listener of its own: it bounds the connections, says once that files run out, and stops listening
without resetting what the kernel had taken.
"""

import asyncio
import ctypes
import resource
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import uvicorn

from phalanx.serve.connection import Connection, Open
from phalanx.serve.middleware import Middleware

BACKLOG = 2048  # connections that the kernel takes before they are accepted
AT_ONCE = 64  # accepted before others get their turn
CONNECTIONS = 4096  # open at once
SPARE = 64  # files that connections leave to the rest: to workers, their restarts, and what is being accepted
KEPT = 75  # seconds that a connection lies idle: longer than Retry-After says, and than proxies keep theirs
PAUSE = 0.1  # seconds until it is tried again to accept
REPORT_EVERY = 60.0  # seconds between two lines about that
PATIENCE = 50  # times when the server is to end
SETTLE = 0.2  # seconds for handshakes under way when the server is to end
LINGER = 0.5  # and for requests under way on connections that are open by then


def raise_files() -> int:
    """Raise the limit of open files as far as this process may. Return how many connections fit beside what is open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return CONNECTIONS if limit == resource.RLIM_INFINITY else max(16, min(CONNECTIONS, limit - _open_files() - SPARE))


def _open_files() -> int:
    try:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:
        return SPARE


class HttpServer(uvicorn.Server):
    """Serves `app` on a bound socket until SIGTERM or SIGINT, at most `connections` at once. Then it calls `draining`,
    accepts what the kernel has taken, and answers what has been sent, for at most `grace` seconds.
    """

    def __init__(
        self, app: Middleware, listening: socket.socket, connections: int, grace: int, draining: Callable[[], None]
    ) -> None:
        super().__init__(uvicorn.Config(
            app, http="h11", ws="none", log_level="error", server_header=False, timeout_keep_alive=KEPT,
            timeout_graceful_shutdown=grace,
        ))  # fmt: skip
        self.draining = draining
        self.body = app.limit
        self.opened = Open()
        self.listener = Listener(listening, self.opened, connections, self._connection)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app, then listen."""
        await super().startup(sockets=[])
        self.listener.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, let what has been sent arrive, then end as uvicorn does."""
        self.draining()
        await self.listener.close()
        await asyncio.sleep(LINGER)
        await super().shutdown(sockets=[])

    def _connection(self) -> Connection:
        return Connection(self.config, self.server_state, self.lifespan.state, self.opened, self.body)


class Listener:
    """Accepts connections, `most` at once: one more closes one that has no whole request, or has to wait."""

    def __init__(self, listening: socket.socket, opened: Open, most: int, make: Callable[[], Connection]) -> None:
        self.socket, self.opened, self.most, self.make = listening, opened, most, make
        self.joining: set[asyncio.Task[None]] = set()  # those whose connection is being made
        self.hindrance = ""  # why nothing is accepted though someone may wait
        self.reported = -REPORT_EVERY
        self.paused: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Listen, in the running event loop."""
        self.loop = asyncio.get_running_loop()
        self.socket.setblocking(False)
        self.socket.listen(BACKLOG)
        self._resume()

    async def close(self) -> None:
        """Accept what the kernel has taken, and listen no more."""
        take_nothing_new(self.socket)
        await asyncio.sleep(SETTLE)
        if self.paused:
            self.paused.cancel()
        self.loop.remove_reader(self.socket)
        for _ in range(PATIENCE):
            while self._accept_one():
                pass
            if not self.hindrance:
                break
            await asyncio.sleep(PAUSE)
        self.socket.close()
        await asyncio.gather(*self.joining)

    def _resume(self) -> None:
        self.paused = None
        self.loop.add_reader(self.socket, self._accept)

    def _accept(self) -> None:
        """Accept those who wait, as many as others can wait for."""
        for _ in range(AT_ONCE):
            if not self._accept_one():
                break
        if self.hindrance and not self.joining:
            self._pause()

    def _pause(self) -> None:
        """Accept nothing for a moment; say so now and then."""
        if time.monotonic() - self.reported > REPORT_EVERY:
            self.reported = time.monotonic()
            print(f"phalanx: connections wait to be accepted: {self.hindrance}", file=sys.stderr, flush=True)
        self.loop.remove_reader(self.socket)
        self.paused = self.loop.call_later(PAUSE, self._resume)

    def _accept_one(self) -> bool:
        """Accept a connection. Return whether that was done, and can be again."""
        full = len(self.opened.all) >= self.most
        idle = self.opened.dispensable() if full else None
        if full and not idle:
            self.hindrance = "all connections have requests under way"
            return False

        self.hindrance = ""
        try:
            accepted, _ = self.socket.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionAbortedError:  # the client has left, others may wait behind it
            return True
        except OSError as error:  # files ran out: one of ours makes room for the next try
            self.hindrance = error.strerror or str(error)
            if idle := self.opened.dispensable():
                idle.leave()
            return False

        if idle:  # only now: where nobody waited, none had to go
            idle.leave()
        accepted.setblocking(False)
        task = self.loop.create_task(self._join(self.make(), accepted))
        self.joining.add(task)
        task.add_done_callback(self.joining.discard)
        return True

    async def _join(self, connection: Connection, accepted: socket.socket) -> None:
        """Let the connection speak over the socket."""
        try:
            await self.loop.connect_accepted_socket(lambda: connection, accepted)
        except OSError:  # the client has left
            accepted.close()
            connection.forget()


def take_nothing_new(listening: socket.socket) -> None:
    """Let the kernel drop what would open a connection, where it can (Linux): the client tries again a second later,
    and is then refused. A connection that came in between the last accept and the close would be reset instead.
    """
    if sys.platform != "linux":
        return
    filter_ = [  # of a packet's TCP header: the flags; all but a SYN without an ACK pass
        (0x30, 0, 0, 13),  # A = flags
        (0x54, 0, 0, 0x12),  # A &= SYN | ACK
        (0x15, 0, 1, 0x02),  # A == SYN?
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFF),  # pass
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in filter_))
    program = struct.pack("HP", len(filter_), ctypes.addressof(code))
    with suppress(OSError):
        listening.setsockopt(socket.SOL_SOCKET, 26, program)  # SO_ATTACH_FILTER
