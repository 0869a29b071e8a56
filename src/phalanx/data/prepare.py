"""`phalanx prepare`: text in, a tokenized set in Megatron's .bin/.idx out, with a manifest and its tokenizer beside.

The output depends on the request alone, not on workers or interruptions: chunks come back in order, and a journal says
what is safe on disk and where reading goes on. Nothing finished is overwritten unless `force` says so.
"""

import hashlib
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from phalanx import processor
from phalanx.data.chunks import CHUNK, Chunk, read_chunks
from phalanx.data.documents import Reading
from phalanx.data.encode import Block, EncodeOptions, encode_all
from phalanx.data.indexed import IndexedWriter, Position, partial_paths, set_paths
from phalanx.data.inputs import find_files, stamp
from phalanx.data.journal import Cursor, Journal, journal_path, left_out, stopped_by
from phalanx.data.manifest import (
    SUFFIXES,
    Manifest,
    Request,
    describe_sources,
    describe_written,
    manifest_path,
    tokenizer_path,
)
from phalanx.data.meter import Meter
from phalanx.data.remote import AnyPath, path_of
from phalanx.data.source_names import is_remote
from phalanx.data.streams import UTF_8, known_encoding
from phalanx.data.tokenize import Tokenizer, load_tokenizer
from phalanx.data.upload import claim, mark_path, publish, release, staging
from phalanx.data.verify import check_tokenizer, open_set
from phalanx.errors import InputError, Resumable

COMMIT_SECONDS = 2.0  # between journal entries: at most that much work is done twice
UNCUT = 8 << 20  # characters of a document for a tokenizer of which it is not known where its texts may be cut
SHOWN = 6  # tokens that a message names
DOCUMENTS = ("file", "line", "blank-line")

Stamps = dict[AnyPath, tuple[int, int]]  # the inputs, with what tells that one was written to


@dataclass(frozen=True)
class PrepareOptions:
    """How to prepare; see `phalanx prepare --help`."""

    tokenizer: str = "gpt2"
    document: str = "file"  # plain text: file, line or blank-line
    key: str = "text"  # JSONL, Parquet and Arrow
    sentences: bool = False  # a sequence per sentence, for BERT
    workers: int = 0  # 0: every core there is
    strict: bool = False  # stop at the first malformed record
    append_eod: bool | None = None  # None: where there is an end of text but no mask, unless by sentences
    force: bool = False  # replace what lies at the output
    encoding: str = UTF_8  # plain text
    split: str = ""  # of data sets; by default "train"


def prepare(inputs: Sequence[str], out: str, options: PrepareOptions) -> Manifest:
    """Tokenize `inputs` (files, folders, globs) into the set `out`; go on where an interrupted run stopped.

    Raises InputError for inputs, options or files that cannot be used, and when no document is found.
    """
    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)

    made = staging(out)
    files = find_files(inputs, [*_own_files(out), *_own_files(made)], options.split)
    _check_out(out, files)
    tokenizer = load_tokenizer(options.tokenizer)
    stamps = _stamps(files)  # before they are read, so that a later change shows
    request = _request(stamps, tokenizer, options)

    if not options.force and (finished := _finished(out, request)):
        _check_faults(finished, options.strict)
        console.print(f"{out} is already prepared from the same inputs, reusing it: {_summary(finished)}")
        return finished

    if made != out:
        claim(out, options.force)
    try:
        unsent = None if made == out or options.force else _finished(made, request)
        manifest, speed = (unsent, "") if unsent else _make(made, request, stamps, tokenizer, options, console)
        if made != out:
            manifest = publish(out, console)
    except InputError as error:
        if made != out and not isinstance(error, Resumable):  # there is nothing to go on from
            release(out)
        raise
    except BrokenExecutor as error:
        raise InputError(
            f"{out}: a worker process was killed, perhaps for want of memory; "
            "the same command again goes on from here; fewer --workers take less"
        ) from error
    except OSError as error:
        what = error.strerror or error
        raise InputError(f"{error.filename or out}: {what}; the same command again goes on from here") from error

    console.print(f"{out}: {_summary(manifest)}{speed}")
    return manifest


def _make(
    out: str, request: Request, stamps: Stamps, tokenizer: Tokenizer, options: PrepareOptions, console: Console
) -> tuple[Manifest, str]:
    """Write the set `out` on this machine, from where an interrupted run stopped. Return its manifest, and its speed
    in words.
    """
    journal = _begin(out, request, options.force)
    _check_faults(journal.cursor, options.strict)
    if journal.position.tokens:
        console.print(f"going on with {out} after {journal.position.tokens:,} tokens")

    with Meter(console, "preparing", sum(source.bytes for source in request.sources)) as meter:
        position, cursor = _write(stamps, out, journal, tokenizer, options, meter)
    return _finish(out, request, tokenizer, position, cursor), f", {meter.speed}"


def saved(out: str) -> str:
    """Return in words how much of the set `out` an interrupted preparation has saved."""
    if is_remote(out) and manifest_path(staging(out)).exists():
        return f"{out} is whole on this machine and is yet to be sent"
    journal = Journal.read(staging(out))
    return f"{journal.position.tokens if journal else 0:,} tokens of {out} are saved"


def _check_out(out: str, files: list[AnyPath]) -> None:
    if out.endswith("/") or (not is_remote(out) and Path(out).is_dir()):
        example = path_of(out) / "train"
        raise InputError(f"--out {out} is a folder; give the beginning of a file name, such as {example}")
    written = {path.resolve() for path in _own_files(out)}
    for path in files:
        if path.resolve() in written:
            raise InputError(f"--out {out} would replace the input {path}; choose another name")


def _own_files(out: str) -> list[AnyPath]:
    """Return the files that a preparation of the set `out` writes, or wrote when it was interrupted."""
    files = [*set_paths(out), manifest_path(out), tokenizer_path(out)]
    return [*files, mark_path(out)] if is_remote(out) else [*files, *partial_paths(out), journal_path(out)]


def _stamps(files: list[AnyPath]) -> Stamps:
    """Return the files' stamps, asked for side by side: a store takes its time to answer."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(files, pool.map(stamp, files), strict=True))


def _request(stamps: Stamps, tokenizer: Tokenizer, options: PrepareOptions) -> Request:
    if options.document not in DOCUMENTS:
        raise InputError(f"--document {options.document}: choose {', '.join(DOCUMENTS)}")
    if options.workers < 0:
        raise InputError(f"--workers {options.workers}: give a number above 0, or 0 for every core")
    if options.append_eod and options.sentences:
        raise InputError("an end of text is appended to documents, not to sentences; choose one of the two")

    usual = tokenizer.mask is None and not options.sentences
    ended = usual if options.append_eod is None else options.append_eod
    if ended and (candidates := tokenizer.document_end.candidates):
        more = ", …" if len(candidates) > SHOWN else ""
        raise InputError(
            f"tokenizer {tokenizer.name} does not say which token ends a document: {', '.join(candidates[:SHOWN])}"
            f"{more}; name it as eos_token in a tokenizer_config.json beside its tokenizer.json, or leave it out with "
            "--no-append-eod"
        )
    if options.append_eod and tokenizer.eod is None:
        raise InputError(f"tokenizer {tokenizer.name} has no end-of-text token to append")
    marked = ended and tokenizer.eod is not None
    return Request(
        sources=describe_sources(stamps),
        document=options.document,
        key=options.key,
        sentences=options.sentences,
        append_eod=marked,
        tokenizer_sha256=hashlib.sha256(tokenizer.json().encode()).hexdigest(),
        encoding=known_encoding(options.encoding),
        begin=tuple(tokenizer.begin) if marked else (),  # as Megatron does with Llama's
    )


def _finished(out: str, request: Request) -> Manifest | None:
    """Return the manifest of the set `out` if an equal request made it. InputError if files are not as written."""
    if not manifest_path(out).exists() or (manifest := Manifest.read(out)).request != request:
        return None
    for path in set_paths(out):
        if not path.exists():
            raise InputError(f"{path} is missing; --force prepares the set anew")
    check_tokenizer(out, manifest)
    open_set(out, sums=True)
    return manifest


def _begin(out: str, request: Request, force: bool) -> Journal:
    """Return the journal of an interrupted equal request, or a new one. InputError where files are in the way."""
    fresh = Journal(request=request)
    if force:
        manifest_path(out).unlink(missing_ok=True)
        return fresh

    journal = Journal.read(out)
    if journal is None:
        in_the_way = [path for path in (manifest_path(out), *set_paths(out)) if path.exists()]
        if in_the_way:
            raise InputError(f"{in_the_way[0]} exists and comes from other inputs or options; --force replaces it")
        return fresh

    if journal.request != request:
        raise InputError(f"{journal_path(out)} is of other inputs or options; --force starts over")
    return journal if all(path.exists() for path in partial_paths(out)) else fresh


def _write(
    stamps: Stamps, out: str, journal: Journal, tokenizer: Tokenizer, options: PrepareOptions, meter: Meter
) -> tuple[Position, Cursor]:
    """Write the set from where the journal is to the end. Return how much it is, and how the reading went."""
    request, files = journal.request, [*stamps]
    piece = CHUNK if tokenizer.cuttable or request.sentences else UNCUT
    reading = Reading(request.document, request.key, piece, request.sentences, request.encoding)
    encoding = EncodeOptions(tokenizer.name, request.sentences, request.append_eod, request.begin)

    writer = IndexedWriter(out, tokenizer.vocab, journal.position)
    journal.write(out)
    chunks = read_chunks(files, reading, journal.cursor, options.strict, stamps)
    blocks = encode_all(tokenizer, encoding, chunks, options.workers or processor.cpus())

    try:
        cursor = _append(writer, out, journal, blocks, meter)
    except InputError as error:
        last = Journal.read(out)
        if not (isinstance(error, Resumable) and last and last.position.tokens):  # there is nothing to go on from
            _discard(writer, out)
            raise
        raise Resumable(
            f"{error}; {saved(out)}: while its inputs stay the same, the command goes on from there"
        ) from error

    if not writer.commit().tokens:
        _discard(writer, out)
        others = f" and {len(files) - 1} more" if len(files) > 1 else ""
        raise InputError(f"no documents in {files[0]}{others}{left_out(cursor)}; nothing is written")
    return writer.close(), cursor


def _append(
    writer: IndexedWriter, out: str, journal: Journal, blocks: Iterable[tuple[Chunk, Block]], meter: Meter
) -> Cursor:
    """Write the blocks of tokens, and save from time to time how far that is. Return how the reading went."""
    cursor, committed = journal.cursor, time.monotonic()
    for chunk, block in blocks:
        writer.extend(*block)
        meter.show(chunk.consumed, chunk.size)
        cursor = chunk.after or cursor
        if chunk.after and time.monotonic() - committed >= COMMIT_SECONDS:
            Journal(request=journal.request, position=writer.commit(), cursor=cursor).write(out)
            committed = time.monotonic()
    return cursor


def _discard(writer: IndexedWriter, out: str) -> None:
    """Remove what was begun."""
    writer.discard()
    journal_path(out).unlink(missing_ok=True)


def _finish(out: str, request: Request, tokenizer: Tokenizer, position: Position, cursor: Cursor) -> Manifest:
    tokenizer.save(str(tokenizer_path(out)))
    files = {suffix: describe_written(path) for suffix, path in zip(SUFFIXES, set_paths(out), strict=True)}

    manifest = Manifest(
        **dict(request),
        tokenizer=tokenizer.name,
        vocab=tokenizer.vocab,
        eod=tokenizer.eod,
        tokens=position.tokens,
        sequences=position.sequences,
        documents=position.documents,
        text_bytes=cursor.text_bytes,
        malformed=cursor.malformed,
        malformed_first=cursor.malformed_first,
        undecodable=cursor.undecodable,
        blank=cursor.blank,
        sha256={suffix: sha256 for suffix, (sha256, _) in files.items()},
        written={suffix: written for suffix, (_, written) in files.items()},
    )

    manifest.write(out)
    journal_path(out).unlink()
    return manifest


def _summary(manifest: Manifest) -> str:
    counts = {"document": manifest.documents, "sequence": manifest.sequences, "token": manifest.tokens}
    return ", ".join(f"{n:,} {name}{'s' * (n != 1)}" for name, n in counts.items()) + left_out(manifest)


def _check_faults(counts: Manifest | Cursor, strict: bool) -> None:
    """Raise an error where a strict preparation meets what an earlier one was content with."""
    if strict and counts.malformed:
        raise stopped_by(counts.malformed_first[0], counts.undecodable > 0)
