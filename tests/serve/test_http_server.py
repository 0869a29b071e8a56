"""Connections, without models: slow ones are closed, there are never too many, and what was sent is answered."""

import asyncio
import errno
import json
import resource
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from phalanx.serve import connection, http_server, middleware
from phalanx.serve.http_server import HttpServer, raise_files
from phalanx.serve.middleware import Middleware

ASK = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
SEND = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\n\r\n"


class App:
    """Answers with what it is sent, once `go` is set; counts the requests that came so far, and keeps the last."""

    scope: dict[str, Any]

    def __init__(self) -> None:
        self.asked, self.go, self.answer = 0, asyncio.Event(), b"done"
        self.go.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        self.asked, self.scope = self.asked + 1, scope
        await receive()
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self.answer})


@asynccontextmanager
async def serving(
    app: App, most: int = 100, listening: socket.socket | None = None, ending: Callable[[], object] = lambda: None
) -> AsyncIterator[HttpServer]:
    """`ending` is called when the server begins to end."""
    listening = listening or socket.socket()
    listening.bind(("127.0.0.1", 0))
    guarded = Middleware(app, 1000, [], lambda *_: None, {})
    server = HttpServer(guarded, listening, most, 60, lambda: (guarded.drain(), ending()))
    running = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    try:
        yield server
    finally:
        app.go.set()
        server.should_exit = True
        await running


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "SETTLE", 0.01)
    monkeypatch.setattr(http_server, "LINGER", 0.05)
    monkeypatch.setattr(http_server, "PAUSE", 0.005)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.002)


def connected(server: HttpServer, sent: bytes) -> socket.socket:
    """A client; the server has no turn meanwhile, for it is in the same thread."""
    client = socket.create_connection(server.listener.socket.getsockname())
    client.sendall(sent)
    client.setblocking(False)
    return client


async def received(client: socket.socket, end: bytes = b"") -> bytes:
    """All up to `end`, or until the server closes; ConnectionResetError where it breaks off."""
    told = bytearray()
    async with asyncio.timeout(60):
        while part := await asyncio.get_running_loop().sock_recv(client, 1 << 16):
            told += part
            if end and told.endswith(end):
                return bytes(told)
    client.close()
    return bytes(told)


async def answered(client: socket.socket) -> bool:
    """Whether the next that comes is an answer; the connection stays."""
    async with asyncio.timeout(60):
        return (await asyncio.get_running_loop().sock_recv(client, 1 << 16)).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"", b""), (ASK[:20], b"HTTP/1.1 408 Request Timeout"), (SEND + b"abc", b"HTTP/1.1 408 Request Timeout"),
     (ASK + ASK[:20], b"HTTP/1.1 200 OK"), (ASK + SEND, b"HTTP/1.1 200 OK")],
)  # fmt: skip
def test_a_request_that_does_not_become_whole(monkeypatch: pytest.MonkeyPatch, sent: bytes, status: bytes) -> None:
    """Its connection is closed after a while, with 408 where something had come; the app learns nothing of it."""
    monkeypatch.setitem(connection.SECONDS, connection.HEAD, 0.2)
    monkeypatch.setitem(connection.SECONDS, connection.BODY, 0.2)
    app = App()

    async def run() -> bytes:
        async with serving(app) as server:
            told = await received(connected(server, sent))
            assert not server.opened.all and not list(server.opened.idle())
        return told

    told = asyncio.run(run())
    assert told.startswith(status) and bool(told) == bool(status)
    assert app.asked == told.count(b"200 OK") and told.count(b" 408 ") == bool(sent)


def test_a_connection_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute, as proxies do: who comes again when Retry-After says so need not fear that it is being closed."""

    async def run() -> None:
        loop, passed = asyncio.get_running_loop(), 0.0
        real = loop.time
        monkeypatch.setattr(loop, "time", lambda: real() + passed)
        async with serving(App()) as server:
            client = connected(server, ASK)
            assert (await received(client, b"0\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")

            passed += 60
            await asyncio.sleep(0.01)  # a turn of the loop for whatever is due by then
            client.sendall(ASK)
            assert (await received(client, b"0\r\n\r\n")).startswith(b"HTTP/1.1 200 OK")

            passed += http_server.KEPT
            assert await received(client) == b""

    asyncio.run(run())


def test_who_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the rest of the answer is so small that nobody waits to send it."""
    monkeypatch.setattr(connection, "STALLED", 0.05)

    async def run() -> None:
        app = App()
        app.answer = b"a" * (32 << 20)
        async with serving(app) as server:
            client = connected(server, ASK)
            await until(lambda: app.asked == 1)
            await until(lambda: not server.opened.all)
            client.close()

    asyncio.run(run())


def test_who_sends_no_more_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that has closed its side after its requests gets all answers, and is asked meanwhile whether it reads
    them; one that has left does not hold its connection, nor is it computed for.
    """
    monkeypatch.setattr(connection, "LOOK", 0.01)

    def sending(server: HttpServer, sent: bytes) -> socket.socket:
        client = connected(server, sent)
        client.shutdown(socket.SHUT_WR)
        return client

    async def run() -> None:
        app = App()
        async with serving(app) as server:
            told = await received(sending(server, ASK + ASK + ASK[:20]))
            assert told.count(b"HTTP/1.1 200 OK") == told.count(b"done") == 2 and app.asked == 2
            assert await received(sending(server, SEND)) == b""

            app.go.clear()
            waits, old = sending(server, ASK), sending(server, ASK.replace(b"1.1", b"1.0"))
            interim = await received(waits, b"\r\n\r\n")
            assert interim.startswith(b"HTTP/1.1 100 Continue")
            left = sending(server, ASK)
            await until(lambda: app.asked == 5)
            left.close()
            await until(lambda: len(server.opened.all) == 2)
            app.go.set()
            assert (await received(waits)).endswith(b"done\r\n0\r\n\r\n")
            assert (await received(old)).startswith(b"HTTP/1.1 200 OK")

    asyncio.run(run())


BOTH = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
CHUNKED = BOTH.replace(b"Content-Length: 5\r\n", b"").removesuffix(b"0\r\n\r\n")
PACKED = SEND.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n") + b"12345"
LONG = b"GET / HTTP/1.1\r\nHost: here\r\nLong: " + b"a" * 70_000


@pytest.mark.parametrize(
    ("sent", "status"),
    [(BOTH + ASK, 400), (PACKED, 415), (LONG, 431), (LONG + b"\r\n\r\n", 431), (CHUNKED + b"1%019x\r\nabc" % 0, 413),
     (CHUNKED + b"3\r\nabc\r\n3e9\r\n", 413), (b"no request\r\n\r\n", 400), (ASK.replace(b"/", b"http:///a", 1), 400)],
    ids=["two lengths", "packed", "long", "long and whole", "chunk of 2^76", "second chunk", "no request", "no host"],
)  # fmt: skip
def test_what_is_no_proper_request(sent: bytes, status: int) -> None:
    """It is refused as all else is, as JSON in OpenAI's form, and its connection is closed."""

    async def run() -> bytes:
        app = App()
        async with serving(app) as server:
            told = await received(connected(server, sent))
            assert app.asked == 0
        return told

    head, _, body = asyncio.run(run()).partition(b"\r\n\r\n")
    first, *fields = head.decode().lower().split("\r\n")
    assert first.startswith(f"http/1.1 {status} ")
    assert {"content-type: application/json", "connection: close"} <= {*fields}
    body = body if b"chunked" not in head else body.split(b"\r\n")[1]
    error = json.loads(body)["error"]
    assert error["type"] == "invalid_request_error" and error["message"]


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [(b"http://there:80/a%20b?c=d", "/a b", b"c=d"), (b"HTTPS://me@there:80", "/", b""),
     (b"/http://x", "/http://x", b"")],
)  # fmt: skip
def test_a_target_that_is_a_whole_address(target: bytes, path: str, query: bytes) -> None:
    """It is taken as proxies send it, and its host counts."""

    async def run() -> dict[str, Any]:
        app = App()
        async with serving(app) as server:
            client = connected(server, ASK.replace(b"/", target, 1))
            assert await answered(client)
            client.close()
        return app.scope

    scope = asyncio.run(run())
    host = b"here" if target.startswith(b"/") else b"there:80"
    assert (scope["path"], scope["query_string"], scope["headers"]) == (path, query, [(b"host", host)])


def test_more_connections_than_there_is_room_for() -> None:
    """Those that are idle make room; one that is computed for stays."""

    async def run() -> None:
        app = App()
        async with serving(app, most=8) as server:
            app.go.clear()
            busy = connected(server, ASK)
            await until(lambda: app.asked == 1)
            idle = [connected(server, part) for part in (b"", ASK[:20], SEND) for _ in range(10)]
            health = connected(server, ASK)
            await until(lambda: app.asked == 2)
            assert len(server.opened.all) == 8
            for client in idle[:24]:
                with suppress(ConnectionResetError):
                    assert await received(client) == b""
            app.go.set()
            assert await answered(busy) and await answered(health)
            for client in (busy, health, *idle[24:]):
                client.close()

    asyncio.run(run())


def test_who_has_sent_most_goes_last() -> None:
    """Resting connections make room first, then those without a whole head, then those whose body has begun; of two
    bodies the one that has sent nothing for longer.
    """

    async def run() -> None:
        app = App()
        async with serving(app, most=5) as server:
            clients = list[socket.socket]()
            for sent in (SEND, SEND, ASK[:20], b"", ASK):
                clients.append(connected(server, sent))
                await until(lambda: len(list(server.opened.idle())) == len(clients))
            assert await answered(clients[4])
            await until(lambda: list(map(len, server.opened.phases.values())) == [1, 2, 2])

            bodies = server.opened.phases[connection.BODY]
            first = next(iter(bodies))
            clients[0].sendall(b"ab")
            await until(lambda: next(iter(bodies)) is not first)

            app.go.clear()
            for at in (4, 2, 3, 1):
                clients.append(connected(server, ASK))
                with suppress(ConnectionResetError):
                    assert await received(clients[at]) == b""
            clients[0].sendall(b"cde")
            await until(lambda: app.asked == 6)
            app.go.set()
            assert await answered(clients[0])
            for client in clients:
                client.close()

    asyncio.run(run())


def test_bodies_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound a request is refused, and one that is refused, answered or left counts no more."""
    monkeypatch.setattr(middleware, "BODIES", 1500)

    async def run() -> list[int]:
        app, statuses = App(), list[int]()
        app.go.clear()
        guarded = Middleware(app, 1000, [], lambda *_: None, {})

        async def ask() -> None:
            messages = deque(
                [{"type": "http.request", "body": b"a" * 400, "more_body": more} for more in (True, False)]
            )

            async def receive() -> Any:
                return messages.popleft() if messages else await asyncio.Event().wait()

            async def send(message: Any) -> None:
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])
                    assert message["status"] == 200 or (b"retry-after", b"1") in message["headers"]

            await guarded({"type": "http", "path": "/", "headers": []}, receive, send)

        first = asyncio.create_task(ask())
        await until(lambda: app.asked == 1)
        await ask()
        assert guarded.held == 800
        app.go.set()
        await first
        await ask()
        assert guarded.held == 0
        return statuses

    assert asyncio.run(run()) == [429, 200, 200]


def test_connections_wait_where_all_are_computed_for(capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        app = App()
        async with serving(app, most=2) as server:
            app.go.clear()
            clients = [connected(server, ASK) for _ in range(5)]
            await until(lambda: app.asked == 2 and server.listener.paused is not None)
            assert len(server.opened.all) == 2
            app.go.set()
            for client in clients:
                assert await answered(client)
                client.close()

    asyncio.run(run())
    assert capsys.readouterr().err.count("connections wait to be accepted") == 1


class Scarce(socket.socket):
    """Of which no connection can be accepted for a while, because files ran out."""

    tries = 0

    def accept(self) -> Any:
        self.tries += 1
        if self.tries < 200:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_when_files_run_out_it_is_said_once(capfd: pytest.CaptureFixture[str]) -> None:
    async def run() -> None:
        async with serving(App(), listening=Scarce()) as server:
            client = connected(server, ASK)
            assert await answered(client)
            client.close()

    asyncio.run(run())
    told = capfd.readouterr().err
    assert told == "phalanx: connections wait to be accepted: Too many open files\n"


@pytest.mark.parametrize("most", [100, 20])
def test_what_was_sent_before_the_end_is_answered(most: int) -> None:
    """By connections that the kernel has taken and the server has not, by resting ones, and by those whose request is
    whole only later; each is told that this answer is the last. More come than there may be connections at once, too.
    """

    async def run() -> None:
        app, clients = App(), list[socket.socket]()

        def send() -> None:
            resting.sendall(ASK)
            clients.extend([resting, *(connected(server, ASK) for _ in range(50))])

        async with serving(app, most, ending=send) as server:
            resting = connected(server, ASK)
            assert await answered(resting)
            late = connected(server, SEND)
            await until(lambda: len(list(server.opened.idle())) == 2)
            server.should_exit = True
            await until(lambda: len(clients) > 0)
            for told in await asyncio.gather(*map(received, clients)):
                assert told.startswith(b"HTTP/1.1 200 OK") and b"connection: close" in told
            if most == 100:
                late.sendall(b"12345")
                assert b"connection: close" in await received(late)
        with pytest.raises((ConnectionRefusedError, OSError)):
            connected(server, ASK)

    asyncio.run(run())


def test_resting_connections_do_not_hold_up_the_end() -> None:
    async def run() -> None:
        async with serving(App()) as server:
            resting = connected(server, ASK)
            assert await answered(resting)
            nothing = connected(server, b"")
        assert await received(resting) == await received(nothing) == b""

    asyncio.run(run())


def test_files_as_many_as_may_be() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        connections = raise_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        assert 16 <= connections <= http_server.CONNECTIONS
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
