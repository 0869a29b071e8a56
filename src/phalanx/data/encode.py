"""Texts to tokens on many cores, in order.

Where the fast path encodes, threads suffice, as it frees the interpreter lock; the rest is Python and needs processes.
Which it is changes no token: blocks come back in the order they went in.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, NamedTuple, Self

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
    begin: tuple[int, ...] = ()  # tokens before each document


class Block(NamedTuple):
    """Tokens of some texts back to back, where sequences end among them, and documents among those ends."""

    tokens: Array
    ends: Array
    documents: Array


def encode(tokenizer: Tokenizer, options: EncodeOptions, texts: list[str], ends: list[bool], within: bool) -> Block:
    """Return the block of some texts; `ends` tells of each whether a document ends with it, `within` whether the first
    goes on with a document.
    """
    return (
        _sentences(tokenizer, texts, ends) if options.sentences else _documents(tokenizer, options, texts, ends, within)
    )


def encode_all(
    tokenizer: Tokenizer, options: EncodeOptions, chunks: Iterable[Chunk], workers: int
) -> Iterator[tuple[Chunk, Block]]:
    """Yield each chunk with its block, in order, `workers` at a time, reading only a little ahead."""
    if workers == 1:
        yield from ((chunk, encode(tokenizer, options, chunk.texts, chunk.ends, chunk.within)) for chunk in chunks)
        return

    with ExitStack() as stack:
        work: Callable[[list[str], list[bool], bool], Block] = partial(encode, tokenizer, options)
        if options.sentences or not tokenizer.frees_lock:
            work = stack.enter_context(_Processes(options, workers)).encode
        pool = ThreadPoolExecutor(workers)
        stack.callback(pool.shutdown, cancel_futures=True)

        waiting: deque[tuple[Chunk, Future[Block]]] = deque()
        held = 0
        for chunk in chunks:
            waiting.append((chunk, pool.submit(work, chunk.texts, chunk.ends, chunk.within)))
            held += chunk.size
            while len(waiting) > 2 * workers or (held > HELD and len(waiting) > 1):
                done, future = waiting.popleft()
                held -= done.size
                yield done, future.result()

        for done, future in waiting:
            yield done, future.result()


def _documents(tokenizer: Tokenizer, options: EncodeOptions, texts: list[str], ends: list[bool], within: bool) -> Block:
    tokens, lengths = tokenizer.encode_joined(texts)
    text_ends = np.cumsum(lengths)
    document_ends = text_ends[np.array(ends, bool)]
    numbers = np.arange(1, len(document_ends) + 1)

    if begin := options.begin:
        first = np.array([not within, *ends][: len(texts)], bool)  # of a document
        starts = (text_ends - lengths)[first]
        tokens = np.insert(tokens, np.repeat(starts, len(begin)), np.tile(begin, len(starts)))
        document_ends = document_ends + len(begin) * (numbers - within)
    if options.append_eod:
        assert tokenizer.eod is not None
        tokens = np.insert(tokens, document_ends, tokenizer.eod)
        document_ends = document_ends + numbers
    return Block(tokens, document_ends, numbers)


def _sentences(tokenizer: Tokenizer, texts: list[str], ends: list[bool]) -> Block:
    from phalanx.data.sentences import split_sentences  # its model is loaded only where it is needed

    split = [split_sentences(text) for text in texts]
    tokens, lengths = tokenizer.encode_joined([sentence for sentences in split for sentence in sentences])
    counts = np.array([len(sentences) for sentences in split], np.int64)
    return Block(tokens, np.cumsum(lengths), np.cumsum(counts)[np.array(ends, bool)])


class _Processes:
    """Processes that encode, each for one thread at a time, over a pipe of its own: one that dies is noticed at once.

    (A process killed while it sends leaves half a message; in a pipe that others share the reader would wait for ever.)
    """

    def __init__(self, options: EncodeOptions, count: int) -> None:
        spawn = get_context("spawn")
        self._idle: SimpleQueue[Connection] = SimpleQueue()
        self._running = []
        for _ in range(count):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_serve, args=(theirs, options), daemon=True)
            process.start()
            theirs.close()
            self._running.append((process, ours))
            self._idle.put(ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process, end in self._running:
            end.close()
            process.join()

    def encode(self, texts: list[str], ends: list[bool], within: bool) -> Block:
        """Do as the function does, in another process. Raises BrokenExecutor where that has died, and its errors."""
        end = self._idle.get()
        try:
            end.send((texts, ends, within))
            answer = end.recv()
        except (EOFError, OSError) as error:
            raise BrokenExecutor("a process that encodes has died") from error
        finally:
            self._idle.put(end)
        if isinstance(answer, Exception):
            raise answer
        return Block(*answer)


def _serve(end: Connection, options: EncodeOptions) -> None:
    """Encode what comes until the parent closes its end or dies."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process for every core
    with suppress(EOFError, OSError, KeyboardInterrupt):
        tokenizer = load_tokenizer(options.tokenizer)
        while True:
            texts, ends, within = end.recv()
            try:
                answer: Any = tuple(encode(tokenizer, options, texts, ends, within))
            except Exception as error:
                answer = error
            end.send(answer)
