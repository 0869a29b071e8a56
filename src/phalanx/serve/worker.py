"""The process that computes: it takes whatever has come while it was busy, and computes that together.

Nothing waits for a batch to fill: under load the next batch gathers while this one is computed. Questions to a BERT go
in one ragged batch each kind; the texts under way then get their next tokens for as long as that batch took.
"""

import os
import signal
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from phalanx.errors import InputError, ModelError, no_memory
from phalanx.foreign import brief
from phalanx.infer import load
from phalanx.infer.decoder_model import DecoderModel
from phalanx.infer.encoder_model import EncoderModel
from phalanx.parent import end_with
from phalanx.serve.messages import (
    Cancel,
    Failed,
    FromWorker,
    Job,
    Ping,
    Pong,
    Ready,
    Reply,
    ToWorker,
    WorkerSpec,
    decode,
    encode,
)
from phalanx.serve.writing import Writing

BATCH, TEXT = 32, 100_000  # questions and characters computed together: those behind them must not wait for long
TOO_LATE = "the deadline passed before this could be computed; try again, or ask for less"


def work(
    specs: Sequence[WorkerSpec], pipe: socket.socket, device: int | None, threads: int, scratch: str, parent: int
) -> None:
    """Load the models and answer jobs until the socket to the server, the process `parent`, closes. A worker that
    computes sees that at its next message, one that is stopped never would: the kernel ends it with the server. The
    server deletes `scratch`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that speaks decides when to stop
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with(parent)
    if device is not None:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = seen.split(",")[device] if seen else str(device)
    import torch

    if threads:
        torch.set_num_threads(threads)
    mail = Mail(pipe)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            worker = Worker({spec.name: _loaded(spec, scratch) for spec in specs}, mail)
        except InputError as error:
            if os.environ.get("PHALANX_TRACEBACK"):
                traceback.print_exc()
            mail.send(Failed(str(error)))
            return
        except Exception as error:
            if not no_memory(error):
                mail.send(Failed(f"the models cannot be loaded: {type(error).__name__}: {brief(error)}"))
            raise
        mail.send(Ready({name: _facts(model) for name, model in worker.models.items()}))
        while True:
            worker.turn()


def _loaded(spec: WorkerSpec, scratch: str) -> EncoderModel | DecoderModel:
    """Load the model of `spec`. Its errors call it by the name it is served under, for they go to clients."""
    model = load(spec.source, spec.backend, spec.precision, scratch=scratch)
    model.bundle = replace(model.bundle, run=Path(spec.name))
    model.ready()
    return model


def _facts(model: EncoderModel | DecoderModel) -> dict[str, Any]:
    if isinstance(model, DecoderModel):
        return {"can": ["complete"], "context": model.context}
    return {"can": model.can, "context": model.bundle.context}


class Mail:
    """The worker's end of the socket, which is emptied at once, also while this process computes."""

    def __init__(self, pipe: socket.socket) -> None:
        self.pipe = pipe
        self.inbox: SimpleQueue[ToWorker | None] = SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, message: FromWorker) -> None:
        """Send a message to the server; OSError where it is gone."""
        self.pipe.sendall(encode(message))

    def poll(self) -> bool:
        """Return whether something has come."""
        return not self.inbox.empty()

    def recv(self) -> ToWorker:
        """Wait for the next message. EOFError once the server is gone."""
        message = self.inbox.get()
        if message is None:
            raise EOFError
        return message

    def _listen(self) -> None:
        with suppress(EOFError, OSError), self.pipe.makefile("rb") as stream:
            while True:
                self.inbox.put(decode(stream))
        self.inbox.put(None)


class Worker:
    """Computes with the models, and keeps what is under way."""

    def __init__(self, models: dict[str, Any], pipe: Mail) -> None:
        self.models, self.pipe = models, pipe
        self.waiting: deque[Job] = deque()
        self.texts: dict[int, Writing] = {}
        self.owed = 0.0  # seconds that texts get before the next batch of questions

    def turn(self) -> None:
        """Take in what has come; compute one batch of questions, or one step of texts where they had less time."""
        self._listen(block=not self.waiting and not self.texts)
        began = time.monotonic()
        if self.owed <= 0 or not self.texts:
            batch = self._next_batch()
            if batch:
                self._answer(batch)
                self.owed = time.monotonic() - began
                return

        for gpt in {id(text.gpt): text.gpt for text in self.texts.values()}.values():
            self._step(gpt)
        self.owed -= time.monotonic() - began

    def _listen(self, block: bool) -> None:
        while block or self.pipe.poll():
            block = False
            message = self.pipe.recv()
            if isinstance(message, Cancel):
                self._cancel(message.number)
            elif isinstance(message, Ping):
                self.pipe.send(Pong())
            elif message.kind == "complete":
                self._begin(message)
            else:
                self.waiting.append(message)

    def _cancel(self, number: int) -> None:
        self.waiting = deque(job for job in self.waiting if job.number != number)
        if number in self.texts:
            text = self.texts.pop(number)
            text.gpt.engine.cancel(text.request)

    def _next_batch(self) -> list[Job]:
        """Take the oldest job and others like it. One large job may be more than the rest would have been."""
        now, batch, rest, size = time.monotonic(), list[Job](), deque[Job](), 0
        while self.waiting:
            job = self.waiting.popleft()
            if job.deadline < now:
                self.pipe.send(Reply(job.number, TOO_LATE, status=503))
            elif not batch or (len(batch) < BATCH and size < TEXT and alike(job, batch[0])):
                batch.append(job)
                size += len(str(job.asked))
            else:
                rest.append(job)
        self.waiting = rest
        return batch

    def _answer(self, batch: Sequence[Job]) -> None:
        """Answer jobs together; where that fails, one by one, so that each gets what is its own."""
        try:
            results = compute(self.models[batch[0].model], batch[0].kind, [job.asked for job in batch])
        except ModelError as error:
            for job in batch:
                self.pipe.send(Reply(job.number, str(error), status=500))
            return
        except InputError as error:
            if len(batch) == 1:
                self.pipe.send(Reply(batch[0].number, str(error), status=400))
                return
            for job in batch:
                self._answer([job])
            return

        for job, result in zip(batch, results, strict=True):
            self.pipe.send(Reply(job.number, result))

    def _begin(self, job: Job) -> None:
        try:
            self.texts[job.number] = Writing(self.models[job.model], job)
        except InputError as error:
            self.pipe.send(Reply(job.number, str(error), status=400))

    def _step(self, gpt: DecoderModel) -> None:
        now = time.monotonic()
        mine = {number: text for number, text in self.texts.items() if text.gpt is gpt}
        for number, text in mine.items():
            if text.job.deadline < now:
                self.pipe.send(Reply(number, TOO_LATE, status=503))
                self._cancel(number)
        if gpt.engine.busy:
            gpt.engine.step()
        for number, text in mine.items():
            if number in self.texts:
                self._send_news(number, text)

    def _send_news(self, number: int, text: Writing) -> None:
        """Send what is new of a text, or why it cannot be had."""
        ended = text.request.ended
        if ended:
            del self.texts[number]
        if ended == "broken":
            self.pipe.send(Reply(number, str(text.gpt.bundle.broken()), status=500))
        elif (news := text.news()) is not None:
            self.pipe.send(Reply(number, news, last=bool(ended)))


def alike(first: Job, second: Job) -> bool:
    """Return whether two jobs can be computed together."""
    return (first.model, first.kind) == (second.model, second.kind)


def compute(model: EncoderModel | DecoderModel, kind: str, asked: Sequence[dict[str, Any]]) -> list[Any]:
    """Return the results of questions of one kind to a BERT. InputError where the model is a GPT."""
    if not isinstance(model, EncoderModel):
        raise InputError("this model continues texts; use /v1/completions")

    if kind == "answer":
        return [answer._asdict() for answer in model.answers([(job["question"], job["context"]) for job in asked])]
    if kind == "classify":
        texts = [(job["text"], job["pair"]) if job["pair"] else job["text"] for job in asked]
        return [prediction._asdict() for prediction in model.predict(texts)]
    if kind == "fill":
        filled = model.fills([(job["text"], job["top"]) for job in asked])
        return [[blank._asdict() for blank in blanks] for blanks in filled]
    assert kind == "embed"

    # One batch for the texts of all jobs; what comes out is dealt out again in the same order.
    flat = [text for job in asked for text in job["texts"]]
    embeddings, counts = model.embedded(flat)
    vectors, each = iter(embeddings.tolist()), iter(counts)
    return [{"vectors": [next(vectors) for _ in job["texts"]], "tokens": sum(next(each) for _ in job["texts"])}
            for job in asked]  # fmt: skip
