"""One HTTP connection, which is closed when its client is too slow: to send a head or a body, or to read an answer."""

import asyncio
import fcntl
import json
import termios
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from phalanx.serve.shapes import error

HEAD, BODY, REST, ANSWER = "head", "body", "rest", "answer"  # what comes next: from the client but for the answer
SECONDS = {HEAD: 20.0, BODY: 60.0}  # until all of it is there; for how long a connection may rest uvicorn knows
IDLE = REST, HEAD, BODY  # whose connection is closed first where another needs its place: who has sent most comes last
LOOKED_AT = 64  # idle connections, to find one that may be closed for another
STALLED = 30.0  # seconds in which a client takes nothing of an answer
_BODY = json.dumps({"error": error(408, "the request came too slowly")}).encode()
TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


class Open:
    """The connections that are open, and those of them that have no whole request, by what comes next; each time those
    that have sent nothing for longest come first.
    """

    def __init__(self) -> None:
        self.all: set[Connection] = set()
        self.phases: dict[str, dict[Connection, None]] = {phase: {} for phase in IDLE}

    def idle(self) -> "Iterator[Connection]":
        """The connections without a whole request, in the order in which they may be closed for others."""
        return chain.from_iterable(self.phases.values())

    def dispensable(self) -> "Connection | None":
        """The connection that may be closed for another, if there is one: the first idle one of which the kernel holds
        nothing that is still to be read.
        """
        return next((each for each in islice(self.idle(), LOOKED_AT) if not each.unread()), None)


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
        """Expect the first request of a client that has connected."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that it is told whenever the client takes nothing
        self._expect()

    def data_received(self, data: bytes) -> None:
        """Take in a part of a request; its sender is idle for the shortest time now."""
        super().data_received(data)
        self._expect()
        phase = self.opened.phases.get(self.next[0], {})
        if self in phase:
            del phase[self]
            phase[self] = None

    def on_response_complete(self) -> None:
        """Expect the next request once an answer was given."""
        super().on_response_complete()
        self._expect()

    def pause_writing(self) -> None:
        """Begin to measure for how long the client takes nothing of an answer."""
        super().pause_writing()
        self.stalled = self.stalled or self.loop.call_later(STALLED, self.transport.abort)

    def resume_writing(self) -> None:
        """Measure no more, as the client has taken everything."""
        super().resume_writing()
        if self.stalled:
            self.stalled.cancel()
            self.stalled = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection, which is closed."""
        self.forget()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close, as the server is to end, unless a request is under way or a part of its head is there."""
        if self._next() != HEAD or not self.conn.trailing_data[0]:
            super().shutdown()

    def unread(self) -> bool:
        """Whether the kernel holds something that the client has sent."""
        return any(fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.FIONREAD, bytes(4)))

    def leave(self) -> None:
        """Break the connection off at once, to make room for another."""
        self.forget()
        self.transport.abort()

    def forget(self) -> None:
        """Count the connection among the open ones no more, and stop its timers."""
        self.opened.all.discard(self)
        self._no_longer_idle()
        for timer in (self.deadline, self.stalled):
            if timer:
                timer.cancel()

    def _no_longer_idle(self) -> None:
        for phase in self.opened.phases.values():
            phase.pop(self, None)

    def _next(self) -> str:
        """What comes next on this connection: HEAD, BODY, REST or ANSWER."""
        if self.conn.their_state is h11.IDLE:
            return REST if self.cycle and not self.conn.trailing_data[0] else HEAD
        return BODY if self.conn.their_state is h11.SEND_BODY else ANSWER

    def _expect(self) -> None:
        """Set the deadline of what comes next, once."""
        now = self._next(), self.cycle
        if now == self.next or self not in self.opened.all:
            return
        self.next = now
        self._no_longer_idle()
        if self.deadline:
            self.deadline.cancel()

        if now[0] != ANSWER:
            self.opened.phases[now[0]][self] = None
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
