"""One HTTP connection, which is closed when its client is too slow: to send a head or a body, or to read an answer."""

import asyncio
import fcntl
import json
import termios
from itertools import islice
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from phalanx.serve.shapes import error

HEAD, BODY, REST, ANSWER = "head", "body", "rest", "answer"  # what comes next: from the client but for the answer
SECONDS = {HEAD: 20.0, BODY: 60.0}  # until all of it is there; for how long a connection may rest uvicorn knows
LOOKED_AT = 64  # idle connections, to find one that may be closed for another
STALLED = 30.0  # seconds in which a client takes nothing of an answer
_BODY = json.dumps({"error": error(408, "the request came too slowly")}).encode()
TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


class Open:
    """The connections that are open, and those of them that have no whole request, the longest so first."""

    def __init__(self) -> None:
        self.all: set[Connection] = set()
        self.idle: dict[Connection, None] = {}

    def longest_idle(self) -> "Connection | None":
        """The connection that may be closed for another, if there is one: it has been idle for longest, and nothing
        that it was sent is still to be read.
        """
        return next((each for each in islice(self.idle, LOOKED_AT) if not each.unread()), None)


class Connection(H11Protocol):
    """uvicorn's connection with deadlines for what its client has to do."""

    def __init__(self, config: Config, state: ServerState, app_state: dict[str, Any], opened: Open) -> None:
        super().__init__(config, state, app_state)
        self.opened = opened
        self.next: tuple[str, object] = "", None  # and in which exchange
        self.deadline: asyncio.TimerHandle | None = None
        self.stalled: asyncio.TimerHandle | None = None
        opened.all.add(self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The client is there."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that it is told whenever the client takes nothing
        self._expect()

    def data_received(self, data: bytes) -> None:
        """A part of a request."""
        super().data_received(data)
        self._expect()

    def on_response_complete(self) -> None:
        """An answer was given."""
        super().on_response_complete()
        self._expect()

    def pause_writing(self) -> None:
        """The client takes no more for now."""
        super().pause_writing()
        self.stalled = self.stalled or self.loop.call_later(STALLED, self.transport.abort)

    def resume_writing(self) -> None:
        """It has taken everything."""
        super().resume_writing()
        if self.stalled:
            self.stalled.cancel()
            self.stalled = None

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self.forget()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server is to end: close, unless a request is under way or a part of its head is there."""
        if self._next() != HEAD or not self.conn.trailing_data[0]:
            super().shutdown()

    def unread(self) -> bool:
        """Whether the kernel holds something that the client has sent."""
        return any(fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.FIONREAD, bytes(4)))

    def leave(self) -> None:
        """Make room for another."""
        self.forget()
        self.transport.abort()

    def forget(self) -> None:
        """It counts no more."""
        self.opened.all.discard(self)
        self.opened.idle.pop(self, None)
        for timer in (self.deadline, self.stalled):
            if timer:
                timer.cancel()

    def _next(self) -> str:
        if self.conn.their_state is h11.IDLE:
            return REST if self.cycle and not self.conn.trailing_data[0] else HEAD
        return BODY if self.conn.their_state is h11.SEND_BODY else ANSWER

    def _expect(self) -> None:
        """Set the deadline of what comes next, once."""
        now = self._next(), self.cycle
        if now == self.next or self not in self.opened.all:
            return
        self.next = now
        self.opened.idle.pop(self, None)
        if self.deadline:
            self.deadline.cancel()
        if now[0] != ANSWER:
            self.opened.idle[self] = None
        if seconds := SECONDS.get(now[0]):
            self.deadline = self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        """Tell a client that has begun a request, and close."""
        if self.transport.is_closing():
            return
        if self.next[0] == HEAD:
            begun = bool(self.conn.trailing_data[0])
        else:
            begun = not self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if begun:
            self.transport.write(TOO_SLOW)
        self.transport.close()
