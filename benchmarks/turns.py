"""Contenders timed by turns, each in a process of its own: what else the machine does hits all alike, and the others
sleep meanwhile.
"""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

Program = Callable[[Any], Any]


class Contenders:
    """By name. `make`, a function of a module, makes a program of its words in the new process; `together` lets them
    start at the same time, where none of them measures anything while it does.
    """

    def __init__(self, together: bool = False) -> None:
        self.together = together
        self.ends: dict[str, Connection] = {}

    def add(self, name: str, make: Callable[..., Program], *words: Any) -> None:
        """Begin to make a program; unless they start together, wait for it."""
        spawn = multiprocessing.get_context("spawn")
        self.ends[name], away = spawn.Pipe()
        spawn.Process(target=_serve, args=(away, make, words), daemon=True).start()
        if not self.together:
            self._ready(name)

    def ready(self, *cells: Any, warm: int = 3) -> None:
        """Wait for those that start together, and let all of them answer each of `cells` a few times, uncounted."""
        if self.together:
            for name in [*self.ends]:
                self._ready(name)
            for cell in cells:
                for end in self.ends.values():
                    end.send((cell, 0, warm))
                for name in self.ends:
                    self._answer(name)

    def _ready(self, name: str) -> None:
        """What cannot be had is told and left out."""
        if problem := self.ends[name].recv():
            print(f"{name}: {problem.splitlines()[0][:150]}")
            del self.ends[name]

    def turn(self, number: int) -> list[str]:
        """Names in the order of a turn: each begins once."""
        names = [*self.ends]
        first = number % len(names)
        return names[first:] + names[:first]

    def ask(self, name: str, what: Any, calls: int, warm: int = 1) -> tuple[list[float], Any]:
        """Seconds of so many calls, after `warm` that are not counted; the last answer."""
        self.ends[name].send((what, calls, warm))
        return self._answer(name)

    def _answer(self, name: str) -> tuple[list[float], Any]:
        found = self.ends[name].recv()
        if isinstance(found, str):
            raise SystemExit(f"{name}: {found}")
        times, answer = found
        return times, answer

    def stop(self) -> None:
        """All of them."""
        for end in self.ends.values():
            end.send(None)


def _serve(end: Connection, make: Callable[..., Program], words: Sequence[Any]) -> None:
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        program = make(*words)
        end.send(None)
        while (asked := end.recv()) is not None:
            what, calls, warm = asked
            times = []
            answer = None
            for _ in range(calls + warm):
                begun = time.perf_counter()
                answer = program(what)
                times.append(time.perf_counter() - begun)
            end.send((times[warm:], answer))
    except Exception as error:
        end.send(f"{type(error).__name__}: {error}")
