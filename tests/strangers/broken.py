"""What another package would bring with a mistake in it, each once."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tests.strangers.optimizers import Normed
from tests.strangers.trackers import Diary


def wrong(answer: Any) -> Callable[..., Any]:
    """Return a method that gives `answer`, or raises it."""

    def method(*_: Any) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return method


class Undescribed(Normed):
    name: str = "tests.strangers.broken:Undescribed"
    rho: float = 0.5


class Half(Normed):
    """It forgets the last parameter."""

    name: str = "tests.strangers.broken:Half"

    def build(self, parameters: Any) -> Any:
        return [torch.optim.SGD([*parameters.values()][:-1], self.lr)]

    def state(self, parameter: object) -> int:
        return 0


class Leaving(Diary):
    """It ends the process."""

    def train(self, step: int, values: object) -> None:
        raise SystemExit(3)


class Program:
    """A program of any backend, which gives what it is told to."""

    room, takes_drafts = 16, False

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def reserve(self, tokens: int) -> None:
        return None

    def release(self, pages: object) -> None: ...

    def __call__(self, rows: Any) -> Any:
        return wrong(self.answer)()


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


__all__ = ["Half", "Leaving", "Program", "Undescribed", "ones", "wrong"]
