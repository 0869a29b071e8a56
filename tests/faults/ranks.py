"""Processes of one run as torchrun or srun would start them: each with its place in its environment."""

import os
import random
import socket
import sys
import time
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

from phalanx.runtime import rendezvous
from tests.train.processes import start


class Rank(NamedTuple):
    """A process of a run, and the file that has its errors."""

    process: ForkServerProcess
    errors: Path

    def end(self, seconds: float) -> int:
        """Its exit code; AssertionError when it is still there after so many seconds."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still there after {seconds} s: {self.errors.read_text()}"
        return self.process.exitcode


class Ranks:
    """Processes that are ended with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.all = folder, list[Rank]()
        self.address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}

    def start(
        self, rank: int, world: int, *words: object, patience: float = rendezvous.PATIENCE, together: int = 1,
        **environment: str,
    ) -> Rank:  # fmt: skip
        """Rank `rank` of `world`, which runs `phalanx WORDS`, and waits `patience` seconds for the others. It begins
        when so many processes as are started `together` are up, however long a busy machine takes to start them.
        """
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        errors = self.folder / f"errors-{len(self.all)}"
        errors.touch()
        up = self.folder / f"up-{len(self.all)}", together
        process = start(_phalanx, {**self.address, **place, **environment}, errors, patience, up, *map(str, words))
        self.all.append(Rank(process, errors))
        return self.all[-1]

    def lines(self) -> list[str]:
        """What the processes said to the user."""
        return [line for rank in self.all for line in rank.errors.read_text().splitlines() if line.strip()]

    def codes(self, seconds: float) -> list[int]:
        """The exit codes of all, which end within so many seconds."""
        deadline = time.monotonic() + seconds
        return [rank.end(deadline - time.monotonic()) for rank in self.all]

    def kill(self) -> None:
        """End what is left."""
        for rank in self.all:
            rank.process.kill()
            rank.process.join()


def free_port() -> int:
    """A port that nobody listens at, below those that the system gives to connections."""
    while True:
        port = random.randrange(10000, 30000)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("", port))
            return port


def _phalanx(environment: dict[str, str], errors: Path, patience: float, up: tuple[Path, int], *words: str) -> None:
    from phalanx import cli
    from phalanx.train import monitor

    monitor.peak_flops = lambda *_: 1e9  # measuring takes longer than such a run
    rendezvous.PATIENCE = patience
    os.environ.update(environment)
    os.chdir(environment.get("PWD", "."))
    sys.path[:0] = filter(None, [environment.get("PYTHONPATH")])
    sys.argv = ["phalanx", *words]
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
    os.dup2(os.open(errors, os.O_WRONLY), 2)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    mark, together = up
    mark.touch()
    while len([*mark.parent.glob("up-*")]) < together:
        time.sleep(0.01)
    cli.main()
