"""Documents of many files in chunks of about half a megabyte, each with the point from which reading could go on."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from phalanx.data.documents import Bookmark, DocumentReader, Reading
from phalanx.data.inputs import check_unchanged
from phalanx.data.journal import Cursor, stopped_by
from phalanx.data.remote import AnyPath

CHUNK = 1 << 19  # characters


class Chunk(NamedTuple):
    """Texts to encode together. Whatever is cut where, the tokens are the same."""

    texts: list[str]
    ends: list[bool]  # of each text: a document ends with it
    size: int  # bytes of the texts
    consumed: int  # bytes of all input files read by now
    within: bool  # the first text goes on with a document
    after: Cursor | None  # where to go on once this chunk is written; None in the middle of a record


def read_chunks(
    files: Sequence[AnyPath],
    reading: Reading,
    start: Cursor,
    strict: bool,
    stamps: Mapping[AnyPath, tuple[int, int]] | None = None,
) -> Iterator[Chunk]:
    """Yield the chunks from `start` on. A fault is counted, or with `strict` raised as InputError.

    With `stamps`, the sizes and times that the files had before, it is an error too that a file was written to since.
    """
    cursor = start  # its place moves with a chunk or a file, as only what is written may be passed over
    sizes = [stamps[path][0] if stamps else path.stat().st_size for path in files]
    finished = sum(sizes[: start.source])
    texts: list[str] = []
    ends: list[bool] = []
    size, within = 0, start.within

    for source in range(start.source, len(files)):
        reader = DocumentReader(files[source], reading)
        bookmark: Bookmark | None = start.bookmark if source == start.source else Bookmark()

        for record in reader.records(bookmark or Bookmark()):
            bookmark = record.next
            if record.fault:
                fault = f"{files[source]}, {record.fault}"
                if strict:
                    raise stopped_by(fault, record.undecodable)
                cursor = cursor.with_fault(fault, record.undecodable)
                continue
            if record.blank:
                cursor = cursor.with_blank()
                continue

            texts.append(record.text)
            ends.append(record.ends)
            size += len(record.text) if record.text.isascii() else len(record.text.encode())
            if size >= CHUNK:
                cursor = cursor.moved(source, bookmark or Bookmark(), size, not record.ends)
                yield Chunk(texts, ends, size, finished + reader.consumed(), within, cursor if bookmark else None)
                texts, ends, size, within = [], [], 0, not record.ends

        if stamps:
            check_unchanged(files[source], stamps[files[source]])
        finished += sizes[source]
        cursor = cursor.moved(source + 1, Bookmark(), 0)

    yield Chunk(texts, ends, size, finished, within, cursor.moved(len(files), Bookmark(), size))
