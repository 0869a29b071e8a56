"""Documents out of files: plain text, JSONL, Parquet and Arrow, as a stream that never holds much.

A document of plain text is a file, a line, or what lies between blank lines. Long documents come in pieces, cut where
no word is cut, so the size of a document does not matter either. Each record says where the next one begins, so
reading can go on from there. What cannot be read (broken UTF-8 or JSON) comes as a record with a fault, and a document
of blanks alone as a record that is blank.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, BinaryIO, NamedTuple

from phalanx.data.columns import texts as column_texts
from phalanx.data.inputs import ARROW, JSONL, PARQUET, kind
from phalanx.data.remote import AnyPath
from phalanx.data.streams import BLOCK, BOM, UTF_8, skip, unpacked
from phalanx.strict_json import parse_json

LIMIT = 64 << 20  # bytes of a record that has to be held whole; longer ones are faults
HEAD = 4 << 20  # bytes of a file that are checked to be UTF-8 while held; a longer file is read once more for that
LONGEST_WORD = 16 << 20  # characters without a blank after which a document is cut all the same
PARAGRAPHS = re.compile(r"(?s).*\n\s*\n")
WORDS = re.compile(r"(?s).*\S(?=[ \r\n])")
NEXT_WORD = re.compile(r"\S(?=[ \r\n])")


class Bookmark(NamedTuple):
    """A point in a file: bytes (Parquet and Arrow: rows) from its beginning, unpacked, and lines before it."""

    offset: int = 0
    line: int = 0


class Record(NamedTuple):
    """A document, or a piece of one, or a fault."""

    text: str
    ends: bool = True  # the document ends here
    next: Bookmark | None = None  # where the next record begins; None: not a point to go on from
    fault: str = ""
    blank: bool = False  # a document without anything but white space
    undecodable: bool = False  # the fault is that plain text is in another encoding than was said


@dataclass(frozen=True)
class Reading:
    """How to read: what a document of plain text is, the key in other files, and how to cut long documents."""

    document: str  # file, line or blank-line
    key: str
    piece: int  # characters above which a document is cut
    by_paragraph: bool  # cut between paragraphs, so that sentences stay whole
    encoding: str = UTF_8  # of plain text
    spare_lines: bool = False  # a line that cannot be decoded is a fault, and the rest of its file is read


Raw = tuple[bytes | None, int, Bookmark]  # a record's bytes (None: too long), its first line, where the next one begins
Line = tuple[bytes | None, int, int]  # a line's bytes (None: too long), its number, the offset of the next one


class _Undecodable(ValueError):
    """Plain text is in another encoding than was said."""


class DocumentReader:
    """The records of one file. While they are read, `consumed()` is how many of its bytes are, for the progress."""

    def __init__(self, path: AnyPath, reading: Reading) -> None:
        self.path = path
        self.consumed: Callable[[], int] = int
        self._reading = reading

    def records(self, start: Bookmark) -> Iterator[Record]:
        """Yield the records from `start` to the end of the file. Raises InputError when it is damaged."""
        if kind(self.path) in (*PARQUET, *ARROW):
            yield from self._column(start)
            return
        with self._unpacked() as (stream, file):
            if start == Bookmark() and stream.peek(len(BOM)).startswith(BOM):  # type: ignore[attr-defined]
                start = Bookmark(len(BOM))
            skip(stream, start.offset)
            self.consumed = file.tell
            yield from self._stream(stream, start)

    def _stream(self, stream: Any, start: Bookmark) -> Iterator[Record]:
        if kind(self.path) in JSONL:
            return self._decode(_lines(stream, start), lambda raw: _json_text(raw, self._reading.key))
        if self._reading.document == "line":
            return self._decode(_lines(stream, start), self._plain_text)
        if self._reading.document == "blank-line":
            return self._decode(_blocks(_numbered(stream, start)), self._plain_text)
        return self._file(stream, start)

    def _unpacked(self) -> AbstractContextManager[tuple[BinaryIO, BinaryIO]]:
        """Open the file's bytes, unpacked and in UTF-8. JSON is UTF-8 by its definition; only plain text may be
        something else.
        """
        return unpacked(self.path, UTF_8 if kind(self.path) in JSONL else self._reading.encoding)

    def _decode(self, raws: Iterable[Raw], parse: Callable[[bytes], str | None]) -> Iterator[Record]:
        """Yield the records of lines or blocks of them. Those of which `parse` makes nothing are no records."""
        for raw, line, after in raws:
            if raw is None:
                yield _too_long(line)._replace(next=after)
                continue

            try:
                text = parse(raw)
            except _Undecodable:
                yield self._undecodable(line)._replace(next=after)
                continue
            except ValueError as error:
                yield Record("", next=after, fault=f"line {line}: {_reason(error)}")
                continue

            if text is not None:
                yield from self._whole(text, after)

    def _plain_text(self, raw: bytes) -> str | None:
        try:
            text = raw.decode().replace("\r\n", "\n").removesuffix("\n")
        except UnicodeDecodeError:
            raise _Undecodable from None
        return text or None  # an empty line lies between documents; one of blanks is a document, if a blank one

    def _undecodable(self, line: int) -> Record:
        return Record("", fault=f"line {line}: not {self._reading.encoding.upper()} text", undecodable=True)

    def _whole(self, text: str, after: Bookmark) -> Iterator[Record]:
        size = self._reading.piece
        if len(text) > size and not text.isspace():
            slices = (text[i : i + size] for i in range(0, len(text), size))
            for piece, ends in self._pieces(slices):
                yield Record(piece, ends, after if ends else None)
        elif text and not text.isspace():
            yield Record(text, True, after)
        else:
            yield Record("", next=after, blank=True)

    def _file(self, stream: Any, start: Bookmark) -> Iterator[Record]:
        head = stream.read(HEAD)
        if not head:
            return
        if start.offset <= len(BOM):
            fault, blank = self._look([head]) if len(head) < HEAD else self._look_through()
            if fault and self._reading.spare_lines:
                yield from self._sound_lines()
            elif fault:
                yield self._undecodable(fault)
            elif blank:
                yield Record("", blank=True)
            if fault or blank:
                return

        offset = start.offset
        blocks = chain([head], iter(lambda: stream.read(BLOCK), b""))
        for piece, ends in self._pieces(codecs.iterdecode(blocks, UTF_8)):
            offset += len(piece.encode())
            yield Record(piece.replace("\r\n", "\n"), ends, Bookmark(offset))

    def _sound_lines(self) -> Iterator[Record]:
        """Yield the file's text without the lines that cannot be decoded or are too long, each of which is a fault."""
        faults: list[Record] = []

        def sound(stream: BinaryIO) -> Iterator[str]:
            for raw, line, _ in _numbered(stream, Bookmark()):
                if raw is None:
                    faults.append(_too_long(line))
                    continue
                try:
                    yield (raw.removeprefix(BOM) if line == 1 else raw).decode()
                except UnicodeDecodeError:
                    faults.append(self._undecodable(line))

        with self._unpacked() as (stream, _):
            for piece, ends in self._pieces(sound(stream)):
                yield from faults
                faults.clear()
                yield Record(piece.replace("\r\n", "\n"), ends)

    def _look_through(self) -> tuple[int, bool]:
        """Do as `_look`, for the whole file at once."""
        with self._unpacked() as (stream, _):
            return self._look(iter(lambda: stream.read(BLOCK), b""))

    def _look(self, blocks: Iterable[bytes]) -> tuple[int, bool]:
        """Return the number of the first line that is not UTF-8 (0: all are), and whether there are only blanks."""
        line, blank, decoder = 1, True, codecs.getincrementaldecoder("utf-8-sig")()
        for block in chain(blocks, [b""]):
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                return line + error.object.count(b"\n", 0, error.start), False
            line += block.count(b"\n")
            blank = blank and not text.strip()
        return 0, blank

    def _column(self, start: Bookmark) -> Iterator[Record]:
        size = self.path.stat().st_size
        rows = column_texts(self.path, self._reading.key, start.offset)
        for row, (text, fault, part) in enumerate(rows, start.offset + 1):
            self.consumed = partial(int, part * size)
            if fault:
                yield Record("", next=Bookmark(row), fault=f"row {row}: {fault}")
            else:
                yield from self._whole(text, Bookmark(row))

    def _pieces(self, texts: Iterable[str]) -> Iterator[tuple[str, bool]]:
        held = ""
        for text in texts:
            held += text
            while len(held) > self._reading.piece and (at := self._cut(held)):
                yield held[:at], False
                held = held[at:]
        yield held, True

    def _cut(self, text: str) -> int:
        """Return where to cut the text, near the size of a piece; 0 where there is no good place yet."""
        for pattern in (PARAGRAPHS, WORDS) if self._reading.by_paragraph else (WORDS,):
            if match := pattern.match(text, 0, self._reading.piece):
                return match.end()
        if match := NEXT_WORD.search(text, self._reading.piece - 1):
            return match.end()
        return len(text) if len(text) > LONGEST_WORD else 0


def _too_long(line: int) -> Record:
    return Record("", fault=f"line {line}: longer than {LIMIT >> 20} MiB")


def _lines(stream: Any, start: Bookmark) -> Iterator[Raw]:
    return ((line, number, Bookmark(offset, number)) for line, number, offset in _numbered(stream, start))


def _numbered(stream: Any, start: Bookmark) -> Iterator[Line]:
    offset, number = start
    while line := stream.readline(LIMIT + 1):
        offset += len(line)
        number += 1
        too_long = len(line) > LIMIT
        while len(line) > LIMIT and not line.endswith(b"\n"):
            line = stream.readline(LIMIT + 1)
            offset += len(line)
        yield None if too_long else line, number, offset


def _blocks(lines: Iterable[Line]) -> Iterator[Raw]:
    """Yield lines joined up to the next blank one."""
    held: list[bytes] = []
    size = first = number = offset = 0
    for line, number, offset in lines:
        if line is not None and line.isspace():
            if first:
                yield b"".join(held) if size <= LIMIT else None, first, Bookmark(offset, number)
            held, size, first = [], 0, 0
            continue
        first = first or number
        size += LIMIT + 1 if line is None else len(line)
        if line is not None and size <= LIMIT:
            held.append(line)
    if first:
        yield b"".join(held) if size <= LIMIT else None, first, Bookmark(offset, number)


def _json_text(raw: bytes, key: str) -> str | None:
    line = raw.decode()
    if line.isspace():
        return None
    record = parse_json(line)
    text = record.get(key) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise ValueError(f"no text under the key {key!r}")
    if "\\u" in line:
        text.encode()  # half a surrogate pair is no text
    return text


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "not UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg}, column {error.colno}"
    return str(error)
