"""Preparations in processes of their own that are killed, at a point that is always the same."""

import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from phalanx.data import chunks, prepare
from phalanx.data.indexed import IndexedWriter
from phalanx.errors import InputError

SMALL = 1 << 14  # characters of a chunk, so that little text has many


def killed(source: Path, out: Path, document: str, chunk: int) -> None:
    """SIGKILL strikes when so many chunks are written, all but the last of them committed."""
    chunks.CHUNK = prepare.CHUNK = SMALL  # type: ignore[misc]
    prepare.COMMIT_SECONDS = 0
    write, count = IndexedWriter.extend, 0

    def extend(*block: Any) -> None:
        nonlocal count
        write(*block)
        count += 1
        if count == chunk:
            os.kill(os.getpid(), signal.SIGKILL)

    IndexedWriter.extend = extend  # type: ignore[method-assign]
    prepare.prepare([str(source)], str(out), prepare.PrepareOptions(workers=2, document=document))


def with_workers(source: Path, out: Path, end: Connection) -> None:
    """By two processes; says when the first chunk is committed and waits for an answer, then says how it ended."""
    chunks.CHUNK = prepare.CHUNK = SMALL  # type: ignore[misc]
    prepare.COMMIT_SECONDS = 0
    write = prepare.Journal.write
    asked: list[bool] = []

    def asks(self: prepare.Journal, prefix: str) -> None:
        write(self, prefix)
        if self.position.tokens and not asked:
            asked.append(True)
            end.send("committed")
            end.recv()

    prepare.Journal.write = asks  # type: ignore[method-assign]
    try:
        prepare.prepare([str(source)], str(out), prepare.PrepareOptions("bert-uncased", sentences=True, workers=2))
        end.send("finished")
    except InputError as error:
        end.send(str(error))
