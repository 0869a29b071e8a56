"""Servers of files for tests, in threads of the tests' process: one that speaks as S3 does, as far as s3fs asks."""

import gzip
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest
import zstandard

BUCKET = "books"
TEXT = "".join(f"Line {number} of a book that lies elsewhere.\n" for number in range(3000)).encode()
FILES = {
    "raw/a.txt": TEXT,
    "raw/b.jsonl": b'{"text": "one"}\n{"text": "two"}\n',
    "raw/deep/c.txt.gz": gzip.compress(TEXT[:5000], mtime=0),
    "raw/deep/d.txt.zst": zstandard.compress(TEXT[5000:9000]),
}
KEY, NOBODY = "reader", "nobody"  # access keys that the store knows, and not


@dataclass
class Store:
    """The objects of a bucket by key, and what was asked: method, key, and the Range of the request.

    `cut` breaks off the next answers with an object after so many bytes, `refused` answers the next requests for it,
    or those of one method ("PUT key"), with a status.
    """

    address: str
    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    cut: dict[str, list[int]] = field(default_factory=dict)
    refused: dict[str, list[int]] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)

    def clear(self) -> None:
        """Forget all."""
        for each in (self.objects, self.asked, self.cut, self.refused, self.uploads):
            each.clear()

    def under(self, prefix: str) -> set[str]:
        """The keys under a prefix, without it."""
        return {key.removeprefix(prefix) for key in self.objects if key.startswith(prefix)}


@contextmanager
def s3_store() -> Iterator[Store]:
    """Serve a store that s3fs asks, by the variables of AWS."""
    import s3fs

    server = ThreadingHTTPServer(("127.0.0.1", 0), _S3)
    store = Store(f"http://127.0.0.1:{server.server_port}")
    server.store = store  # type: ignore[attr-defined]
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", store.address)
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        patch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        patch.setattr(s3fs.S3FileSystem, "retries", 1)
        s3fs.S3FileSystem.clear_instance_cache()
        yield store
        s3fs.S3FileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()


class _S3(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._handle()

    def do_HEAD(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_DELETE(self) -> None:
        self._handle()

    def _handle(self) -> None:
        self.store: Store = self.server.store  # type: ignore[attr-defined]
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.store.asked.append((self.command, key, self.headers.get("Range", "")))

        if refused := self.store.refused.get(key) or self.store.refused.get(f"{self.command} {key}"):
            return self._error(refused.pop(0), "SlowDown")
        if f"Credential={NOBODY}/" in self.headers.get("Authorization", ""):
            return self._error(403, "InvalidAccessKeyId")
        if bucket != BUCKET:
            return self._error(404, "NoSuchBucket")
        if not key:
            return self._list(query) if self.command == "GET" else self._answer(200)
        return getattr(self, f"_{self.command.lower()}")(key, query, body)

    def _get(self, key: str, query: dict[str, str], body: bytes) -> None:
        if (content := self.store.objects.get(key)) is None:
            self._error(404, "NoSuchKey")
            return
        first, last = 0, len(content) - 1
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(wanted[1]), min(int(wanted[2] or last), last)
        part = content[first : last + 1]

        self.send_response(206 if wanted else 200)
        self.send_header("ETag", _etag(content))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Last-Modified", "Sat, 28 Nov 2026 00:00:00 GMT")
        self.send_header("Content-Length", str(len(part)))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        cuts = self.store.cut.get(key) if self.command == "GET" else None
        self.close_connection = bool(cuts)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part[: cuts.pop(0)] if cuts else part)

    _head = _get

    def _put(self, key: str, query: dict[str, str], body: bytes) -> None:
        if "uploadId" in query:
            self.store.uploads[query["uploadId"]][int(query["partNumber"])] = body
        else:
            self.store.objects[key] = body
        self._answer(200, etag=_etag(body))

    def _post(self, key: str, query: dict[str, str], body: bytes) -> None:
        if "uploads" in query:
            self.store.uploads[number := f"upload{len(self.store.uploads)}"] = {}
            text = f"<Bucket>{BUCKET}</Bucket><Key>{escape(key)}</Key><UploadId>{number}</UploadId>"
            return self._answer(200, f"<InitiateMultipartUploadResult>{text}</InitiateMultipartUploadResult>")
        parts = self.store.uploads.pop(query["uploadId"])
        self.store.objects[key] = content = b"".join(parts[number] for number in sorted(parts))
        text = f"<Bucket>{BUCKET}</Bucket><Key>{escape(key)}</Key><ETag>{escape(_etag(content))}</ETag>"
        return self._answer(200, f"<CompleteMultipartUploadResult>{text}</CompleteMultipartUploadResult>")

    def _delete(self, key: str, query: dict[str, str], body: bytes) -> None:
        self.store.objects.pop(key, None)
        self._answer(204)

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        contents, folders = "", dict[str, None]()
        for key, content in sorted(self.store.objects.items()):
            if not key.startswith(prefix):
                continue
            below, found, _ = key.removeprefix(prefix).partition(delimiter) if delimiter else (key, "", "")
            if found:
                folders[prefix + below + found] = None
            else:
                about = f"<Size>{len(content)}</Size><LastModified>2026-11-28T00:00:00.000Z</LastModified>"
                contents += f"<Contents><Key>{escape(key)}</Key>{about}<ETag>{escape(_etag(content))}</ETag></Contents>"
        contents += "".join(f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in folders)
        text = f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><IsTruncated>false</IsTruncated>{contents}"
        self._answer(200, f"<ListBucketResult>{text}</ListBucketResult>")

    def _answer(self, status: int, text: str = "", etag: str = "") -> None:
        content = text.encode()
        self.send_response(status)
        if etag:
            self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>")


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


class WithoutRanges(_S3):
    """A web server that sends whole files alone."""

    def _get(self, key: str, query: dict[str, str], body: bytes) -> None:
        if (content := self.store.objects.get(key)) is None:
            self._error(404, "")
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        cuts = self.store.cut.get(key) if self.command == "GET" else None
        self.close_connection = bool(cuts)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[: cuts.pop(0)] if cuts else content)

    _head = _get
