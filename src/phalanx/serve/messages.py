"""Messages between the process that speaks HTTP and its workers, and how they lie in the socket between them."""

import pickle
from dataclasses import dataclass
from typing import Any, BinaryIO, Generic, NamedTuple, TypeVar

T = TypeVar("T")

SIZE = 8  # bytes before each message that say how long it is


@dataclass
class PerKind(Generic[T]):
    """Something of the questions to BERTs, and the same of the texts that GPTs complete: a worker gives each half of
    its time. It is found by the kind of a job.
    """

    questions: T
    texts: T

    def __getitem__(self, kind: str) -> T:
        return self.texts if kind == "complete" else self.questions

    def __setitem__(self, kind: str, value: T) -> None:
        if kind == "complete":
            self.texts = value
        else:
            self.questions = value


class Job(NamedTuple):
    """Something to compute by `deadline` (time.monotonic of this machine). `kind` is answer, classify, fill, embed or
    complete.
    """

    number: int
    model: str
    kind: str
    asked: dict[str, Any]
    deadline: float


class Cancel(NamedTuple):
    """Says that nobody waits for a job any more."""

    number: int


class Ping(NamedTuple):
    """Asks a worker for a sign of life, which it gives between two batches."""


class Reply(NamedTuple):
    """A part of a job's result, or all that was left (`last`); or what was wrong, with an HTTP status."""

    number: int
    result: Any
    last: bool = True
    status: int = 200


class Pong(NamedTuple):
    """A worker's answer to a Ping."""


class Ready(NamedTuple):
    """Says that the models are loaded, and what each can do."""

    models: dict[str, dict[str, Any]]


class Failed(NamedTuple):
    """Says that the models cannot be loaded, and why."""

    message: str


class WorkerSpec(NamedTuple):
    """A model to serve, by its name."""

    name: str
    source: str
    backend: str
    precision: str


ToWorker = Job | Cancel | Ping
FromWorker = Ready | Failed | Reply | Pong


def encode(message: ToWorker | FromWorker) -> bytes:
    """Return a message as it is sent."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return len(body).to_bytes(SIZE, "big") + body


def decode(stream: BinaryIO) -> Any:
    """Return the next message of a stream, for who may wait for it. EOFError where none comes any more."""
    head = stream.read(SIZE)
    body = stream.read(int.from_bytes(head, "big")) if len(head) == SIZE else b""
    if not body or len(body) < int.from_bytes(head, "big"):
        raise EOFError
    return pickle.loads(body)
