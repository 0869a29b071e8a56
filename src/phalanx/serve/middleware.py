"""Checks that a request passes before it is read: its size, and a key where the server asks for one. Plain ASGI, so
that a stream stays a stream and ends when its reader leaves.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from phalanx.errors import InputError
from phalanx.serve.schemas import error

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BODIES = 256 << 20  # bytes of all bodies in memory, or of one where `limit` is more
PATIENCE = 2.0  # seconds for the rest of a body that is refused
SAFE = (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")
NOTHING = "default-src 'none'; frame-ancestors 'none'"  # what a page may do that is none
OPEN = ("/health", "/ready", "/", "/docs", "/openapi.json")  # without a key: what watches the server, and its pages


class Left(Exception):
    """The client has left before its request was whole."""


class Middleware:
    """Middleware around an app: limits, keys, an end to what nobody waits for; `observe` is called with each request's
    path, status and seconds. `pages` are HTML by their paths, to which browsers are told what they may do. While
    `draining` every answer is the last on its connection.
    """

    def __init__(self, app: Any, limit: int, keys: Sequence[str], observe: Callable[[str, int, float], None],
                 pages: Mapping[str, str]) -> None:  # fmt: skip
        self.app, self.limit, self.keys, self.observe = app, limit, [key.encode() for key in keys], observe
        self.policies = {path: policy(html) for path, html in pages.items()}
        self.draining = False
        self.held = 0  # bytes of the bodies of all requests under way

    def drain(self) -> None:
        """Make every answer from now on the last on its connection."""
        self.draining = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request through, or refuse it, and tell of its end."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), *self._headers(scope["path"])]}
            await send(message)

        try:
            with suppress(Left):
                await self._request(scope, receive, sent)
        finally:
            self.observe(getattr(scope.get("route"), "path", "other"), status or 499, time.monotonic() - began)

    def _headers(self, path: str) -> list[tuple[bytes, bytes]]:
        close = [(b"connection", b"close")] if self.draining else []
        return [*SAFE, (b"content-security-policy", self.policies.get(path, NOTHING).encode()), *close]

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if b"content-length" in headers and b"transfer-encoding" in headers:  # a proxy may have read the other one
            await _drain(receive)
            await _refuse(send, 400, "Content-Length and Transfer-Encoding contradict each other; send one of them")
            return

        if self.keys and scope["path"] not in OPEN and not self._known(headers.get(b"authorization", b"")):
            await _drain(receive)
            await _refuse(send, 401, "an API key is needed: Authorization: Bearer KEY")
            return

        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            await _drain(receive)
            await _refuse(send, 415, "send the body as it is, without Content-Encoding")
            return

        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.limit:
            await _drain(receive)
            await _refuse(send, 413, self._too_large())
            return

        body = bytearray()
        try:
            if refusal := await self._read(body, receive):
                await _refuse(send, *refusal)
            else:
                await _while_there(lambda read: self.app(scope, read, send), bytes(body), receive)
        finally:
            self.held -= len(body)

    async def _read(self, body: bytearray, receive: Receive) -> tuple[int, str] | None:
        """Read the whole body, which counts as held from its first byte. Return a status and a message where it is too
        much, alone or with those of others. Left where the rest does not come.
        """
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Left
            part, more = message.get("body", b""), message.get("more_body", False)
            body += part
            self.held += len(part)

            alone = len(body) > self.limit
            if alone or self.held > max(BODIES, self.limit):
                self.held -= len(body)
                body.clear()
                if more:
                    await _drain(receive)
                return (413, self._too_large()) if alone else (429, "too much is sent at once; try again")
        return None

    def _too_large(self) -> str:
        return f"the body is larger than {self.limit} bytes"

    def _known(self, header: bytes) -> bool:
        """Compare a header with every key, in a time that does not tell how much was right."""
        kind, _, given = header.partition(b" ")
        matches = [hmac.compare_digest(given, key) for key in self.keys]
        return kind.lower() == b"bearer" and any(matches)


async def _while_there(app: Callable[[Receive], Awaitable[None]], body: bytes, receive: Receive) -> None:
    """Run the app on a body that was read, until it ends or the client leaves."""
    gone, unread = asyncio.Event(), [body]

    async def read() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    running, watching = asyncio.ensure_future(app(read)), asyncio.create_task(watch())
    try:
        await asyncio.wait({running, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    finally:
        watching.cancel()
        running.cancel()


async def _drain(receive: Receive) -> None:
    """Throw away what still comes, for a while: a connection that is closed on it may lose the answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while (await receive()).get("more_body", False):
                pass


async def _refuse(send: Send, status: int, message: str) -> None:
    body = json.dumps({"error": error(status, message)}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if status == 429:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def policy(html: str) -> str:
    """Return the content security policy of one of the server's pages: it may run the scripts and styles that are
    written in it, by their hashes, and ask the server that it came from. Nothing else, and in no frame of others.
    """

    def hashes(tag: str) -> str:
        blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in blocks]
        return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"

    return (f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")  # fmt: skip


def read_keys(file: Path) -> list[str]:
    """Return the keys of a file, one a line. InputError where it holds none or cannot be read."""
    try:
        keys = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as failed:
        why = failed.strerror if isinstance(failed, OSError) else "it is not UTF-8"
        raise InputError(f"--api-key-file {file} cannot be read: {why}") from None
    if not keys:
        raise InputError(f"{file} holds no key; write one a line")
    return keys
