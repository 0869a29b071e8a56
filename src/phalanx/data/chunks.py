"""Documents of many files in chunks of about half a megabyte, each with the point from which reading could go on."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from phalanx.data.documents import Place, Reader, Reading
from phalanx.data.journal import Progress
from phalanx.errors import InputError

CHUNK = 1 << 19  # characters


class Chunk(NamedTuple):
    """Texts to encode together. Whatever is cut where, the tokens are the same."""

    texts: list[str]
    ends: list[bool]  # of each text: a document ends with it
    size: int  # bytes of the texts
    consumed: int  # bytes of all input files read by now
    after: Progress | None  # where to go on once this chunk is written; None in the middle of a record


def read_chunks(files: Sequence[Path], reading: Reading, start: Progress, strict: bool) -> Iterator[Chunk]:
    """The chunks from `start` on. A fault is counted, or with `strict` raised as InputError."""
    progress = start
    finished = sum(path.stat().st_size for path in files[: start.source])
    texts: list[str] = []
    ends: list[bool] = []
    size = 0
    for source in range(start.source, len(files)):
        reader = Reader(files[source], reading)
        place: Place | None = start.place if source == start.source else Place()
        for record in reader.records(place or Place()):
            place = record.next
            if record.fault:
                fault = f"{files[source]}, {record.fault}"
                if strict:
                    raise InputError(f"{fault}; mend it, or leave out --strict to skip and count such records")
                progress = progress.with_fault(fault)
                continue
            texts.append(record.text)
            ends.append(record.ends)
            size += len(record.text.encode())
            if size >= CHUNK:
                progress = progress.moved(source, place or Place(), size)
                yield Chunk(texts, ends, size, finished + reader.consumed(), progress if place else None)
                texts, ends, size = [], [], 0
        finished += files[source].stat().st_size
        progress = progress.moved(source + 1, Place(), 0)
    yield Chunk(texts, ends, size, finished, progress.moved(len(files), Place(), size))
