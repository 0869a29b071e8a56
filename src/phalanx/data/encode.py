"""Texts to tokens on many cores, in order.

Where the fast path encodes, threads suffice, as it frees the interpreter lock; splitting sentences is Python and needs
processes. Which it is changes no token: blocks come back in the order they went in.
"""

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import cache, partial
from multiprocessing import get_context, parent_process
from typing import Any, NamedTuple

import numpy as np

from phalanx.data.chunks import Chunk
from phalanx.data.tokenize import Tokenizer, load_tokenizer

HELD = 64 << 20  # bytes of text that may wait, all in all

Array = np.ndarray[Any, np.dtype[Any]]


class EncodeOptions(NamedTuple):
    """How a text becomes sequences: small, so that it travels to other processes."""

    tokenizer: str
    sentences: bool
    append_eod: bool


class Block(NamedTuple):
    """Tokens of some texts back to back, where sequences end among them, and documents among those ends."""

    tokens: Array
    ends: Array
    documents: Array


def encode(tokenizer: Tokenizer, options: EncodeOptions, texts: list[str], ends: list[bool]) -> Block:
    """The block of some texts; `ends` tells of each whether a document ends with it."""
    return (_sentences if options.sentences else _documents)(tokenizer, options, texts, ends)


def encode_all(
    tokenizer: Tokenizer, options: EncodeOptions, chunks: Iterable[Chunk], workers: int
) -> Iterator[tuple[Chunk, Block]]:
    """Each chunk with its block, in order, `workers` at a time, reading only a little ahead."""
    if workers == 1:
        yield from ((chunk, encode(tokenizer, options, chunk.texts, chunk.ends)) for chunk in chunks)
        return
    threads = tokenizer.frees_lock and not options.sentences
    work = partial(encode, tokenizer, options) if threads else partial(_encode_elsewhere, options)
    waiting: deque[tuple[Chunk, Future[Block]]] = deque()
    held = 0
    with ThreadPoolExecutor(workers) if threads else _processes(workers) as pool:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(work, chunk.texts, chunk.ends)))
            held += chunk.size
            while len(waiting) > 2 * workers or (held > HELD and len(waiting) > 1):
                done, future = waiting.popleft()
                held -= done.size
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def _documents(tokenizer: Tokenizer, options: EncodeOptions, texts: list[str], ends: list[bool]) -> Block:
    tokens, lengths = tokenizer.encode_joined(texts)
    document_ends = np.cumsum(lengths)[np.array(ends, bool)]
    numbers = np.arange(1, len(document_ends) + 1)
    if options.append_eod:
        assert tokenizer.eod is not None
        tokens = np.insert(tokens, document_ends, tokenizer.eod)
        document_ends = document_ends + numbers
    return Block(tokens, document_ends, numbers)


def _sentences(tokenizer: Tokenizer, options: EncodeOptions, texts: list[str], ends: list[bool]) -> Block:
    from phalanx.data.sentences import split_sentences  # its model is loaded only where it is needed

    split = [split_sentences(text) for text in texts]
    tokens, lengths = tokenizer.encode_joined([sentence for sentences in split for sentence in sentences])
    counts = np.array([len(sentences) for sentences in split], np.int64)
    return Block(tokens, np.cumsum(lengths), np.cumsum(counts)[np.array(ends, bool)])


def _processes(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, get_context("spawn"), _settle)


def _settle() -> None:
    """In a new worker: keep the tokenizers library from starting a thread per core, and do not outlive the parent."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent
    parent.join()
    os._exit(1)


def _encode_elsewhere(options: EncodeOptions, texts: list[str], ends: list[bool]) -> Block:
    return encode(_tokenizer(options.tokenizer), options, texts, ends)


@cache
def _tokenizer(name: str) -> Tokenizer:
    return load_tokenizer(name)
