"""What the process that speaks with clients and those that compute say to each other."""

from typing import Any, NamedTuple


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
    """Nobody waits for a job any more."""

    number: int


class Reply(NamedTuple):
    """A part of a job's result, or all that was left (`last`); or what was wrong, with an HTTP status."""

    number: int
    result: Any
    last: bool = True
    status: int = 200


class Ready(NamedTuple):
    """The models are loaded: what each can do."""

    models: dict[str, dict[str, Any]]


class Failed(NamedTuple):
    """The models cannot be loaded, and why."""

    message: str


class Spec(NamedTuple):
    """A model to serve, by its name."""

    name: str
    source: str
    backend: str
    precision: str
