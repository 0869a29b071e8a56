"""h11's reader of requests with bounds that hold however the bytes arrive, and with absolute targets."""

from typing import Any
from urllib.parse import urlsplit

import h11

HEAD_BYTES = 64 << 10  # of a request's line and header fields


class Parser(h11.Connection):
    """The server's side of an HTTP connection. RemoteProtocolError, with the status to answer, for a head of more than
    HEAD_BYTES and for a chunk that announces more than `body` bytes.
    """

    def __init__(self, body: int) -> None:
        super().__init__(h11.SERVER, HEAD_BYTES)
        self.body = body

    def next_event(self) -> Any:
        """Return the next part of a request, as h11 gives it; the target of a request is the one on this
        server alone.
        """
        awaits_head = self.their_state is h11.IDLE
        before = len(self.trailing_data[0]) if awaits_head else 0
        event = super().next_event()
        if isinstance(event, h11.Request):
            # h11 measures a head only while a part of it is still to come.
            if before - len(self.trailing_data[0]) > HEAD_BYTES:
                raise h11.RemoteProtocolError("the head is too large", error_status_hint=431)
            return _on_this_server(event)

        # h11 keeps to itself what a chunk announces: it gives the bytes as they come, up to 2^80 of them.
        if getattr(self._reader, "_bytes_in_chunk", 0) > self.body:
            raise h11.RemoteProtocolError(f"the body is larger than {self.body} bytes", error_status_hint=413)
        return event


def _on_this_server(request: h11.Request) -> h11.Request:
    """Return the request as one for a path of this server, where its target is a whole address (RFC 9112, 3.2.2): the
    address's host counts, not the one in the header fields. RemoteProtocolError for an address without a host.
    """
    if not request.target.lower().startswith((b"http://", b"https://")):
        return request
    try:
        address = urlsplit(request.target)
        host = address.netloc.rpartition(b"@")[2]
    except ValueError:
        host = b""
    if not host:
        raise h11.RemoteProtocolError("the address that is asked for has no host")

    fields = [(name, value) for name, value in request.headers if name != b"host"]
    return h11.Request(
        method=request.method, headers=[(b"host", host), *fields], http_version=request.http_version,
        target=(address.path or b"/") + (b"?" + address.query if address.query else b""),
    )  # fmt: skip
