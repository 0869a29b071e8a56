"""One HTTP connection, which is closed when its client is too slow: to send a head or a body, or to read an answer."""

import asyncio
import fcntl
import json
import socket
import sys
import termios
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol
from uvicorn.server import ServerState

from phalanx.serve.parser import Parser
from phalanx.serve.schemas import error

HEAD, BODY, REST, ANSWER = "head", "body", "rest", "answer"  # what comes next: from the client but for the answer
SECONDS = {HEAD: 20.0, BODY: 60.0}  # until all of it is there; for how long a connection may rest uvicorn knows
IDLE = REST, HEAD, BODY  # whose connection is closed first where another needs its place: who has sent most comes last
LOOKED_AT = 64  # idle connections, to find one that may be closed for another
STALLED = 30.0  # seconds in which a client takes nothing of an answer
LOOK = 1.0  # seconds between looks whether a client that has closed its side still waits for an answer


class Open:
    """The connections that are open, and those of them that have no whole request, by what comes next; each time those
    that have sent nothing for longest come first.
    """

    def __init__(self) -> None:
        self.all: set[Connection] = set()
        self.phases: dict[str, dict[Connection, None]] = {phase: {} for phase in IDLE}

    def idle(self) -> "Iterator[Connection]":
        """Yield the connections without a whole request, in the order in which they may be closed for others."""
        return chain.from_iterable(self.phases.values())

    def dispensable(self) -> "Connection | None":
        """Return the connection that may be closed for another, if there is one: the first idle one of which the kernel
        holds nothing that is still to be read.
        """
        return next((each for each in islice(self.idle(), LOOKED_AT) if not each.unread()), None)


class Connection(H11Protocol):
    """uvicorn's connection with deadlines for what its client has to do; a body has at most so many bytes."""

    def __init__(self, config: Config, state: ServerState, app_state: dict[str, Any], opened: Open, body: int) -> None:
        super().__init__(config, state, app_state)
        self.conn = Parser(body)
        self.opened = opened
        self.next: tuple[str, object] = "", None  # and in which exchange
        self.deadline: asyncio.TimerHandle | None = None
        self.stalled: asyncio.TimerHandle | None = None
        self.half_closed = False  # whether the client sends no more
        self.looking: asyncio.TimerHandle | None = None
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

    def eof_received(self) -> bool:  # type: ignore[override]
        """Return True, to go on, where a client that sends no more has a request under way; it may still read."""
        waits = self._next() == ANSWER and not self.transport.is_closing()
        if waits and not self.half_closed:
            self.half_closed = True
            self._look_again(1)
        return waits

    def on_response_complete(self) -> None:
        """Expect the next request once an answer was given; close where none can come."""
        super().on_response_complete()
        if self.half_closed and self._next() != ANSWER:
            self.transport.close()
        self._expect()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request of HTTP, and close; uvicorn calls this while it handles h11's error."""
        failed = sys.exception()
        status = failed.error_status_hint if isinstance(failed, h11.RemoteProtocolError) else 400
        messages = {413: str(failed), 431: "the request's head is too large"}
        self._end(status, messages.get(status, f"this is no request of HTTP: {failed}"))

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
        """Return whether the kernel holds something that the client has sent."""
        return any(fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.FIONREAD, bytes(4)))

    def leave(self) -> None:
        """Break the connection off at once, to make room for another."""
        self.forget()
        self.transport.abort()

    def forget(self) -> None:
        """Count the connection among the open ones no more, and stop its timers."""
        self.opened.all.discard(self)
        self._no_longer_idle()
        for timer in (self.deadline, self.stalled, self.looking):
            if timer:
                timer.cancel()

    def _no_longer_idle(self) -> None:
        for phase in self.opened.phases.values():
            phase.pop(self, None)

    def _next(self) -> str:
        """Return what comes next on this connection: HEAD, BODY, REST or ANSWER."""
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
        if self.next[0] != HEAD or self.conn.trailing_data[0]:
            self._end(408, "the request came too slowly")
        else:
            self.transport.close()

    def _end(self, status: int, message: str) -> None:
        """Refuse the request that comes in, unless an answer to it has begun, and close."""
        if self.cycle and not self.cycle.response_complete:  # its body comes in
            self.cycle.disconnected = True
            self.cycle.message_event.set()

        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = json.dumps({"error": error(status, message)}).encode()
            self.transport.write(
                b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s"
                % (status, STATUS_PHRASES[status], len(body), body)
            )
        self.transport.close()

    def _look_again(self, looks: int) -> None:
        self.looking = self.loop.call_later(LOOK, self._look, looks)

    def _look(self, looks: int) -> None:
        """Break off where a client that sends no more has left. Whether it has only shows in what becomes of something
        that is sent to it: an interim response, which changes nothing, less and less often.
        """
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
            return
        power_of_two = looks & (looks - 1) == 0
        if power_of_two and self.scope["http_version"] == "1.1" and not self.cycle.response_started:
            self.transport.write(
                self.conn.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
            )
        self._look_again(looks + 1)
