"""Very many requests to `phalanx serve`: does its memory stay flat, and does it outlive the loss of its workers?

    python -m benchmarks.soak [--requests 20000] [--clients 16] [--kills 0] [--stops 0] [--seed 0] [--out FILE]

Requests of every kind and of random lengths go to tiny models. Without kills and stops the memory of all processes is
sampled, and must grow by less than 3 % over what follows the first third of the requests. (torch's backend keeps what
it made for each shape, and takes some thousands of requests until it has seen them all.)

With kills and stops, workers drawn at random get SIGKILL or SIGSTOP at moments drawn at random (`--seed`); every
request must get 200, 429 or 503, and /health must answer throughout.

In the end the server gets SIGTERM, beside a stopped worker where there were stops, and must leave neither a process nor
a file. The exit code is 1 where something of that is not so.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.asking import PATHS, Client, Questions, Server, make
from phalanx.infer.kernels import compiled

SIZE = 64, 2, 2  # width, layers and heads of the models
BUDGET = 5.0  # seconds; a stopped worker is missed after four of them
SAMPLES = 200  # of memory
WARM = 1 / 3  # of the requests, before memory is judged
GROWTH = 0.03  # that memory may grow after that
HEALTHY = 10.0  # seconds in which /health answers, on a machine where others work too


@dataclass
class Soak:
    """A server, what it is to go through, and what became of it."""

    server: Server
    requests: int
    draw: random.Random
    due: list[tuple[int, signal.Signals]]  # after how many requests a worker gets which signal, last first
    asked: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[int, float]] = field(default_factory=list)  # requests, MiB of all processes
    health: list[float] = field(default_factory=list)  # seconds

    async def run(self, clients: int) -> None:
        """All requests, from so many clients."""
        await self.server.until_ready()
        watching = asyncio.create_task(self._watch())
        await asyncio.gather(*(self._client(seed) for seed in range(1, clients + 1)))
        watching.cancel()
        await self.server.until_ready(60 * BUDGET)

    async def _client(self, seed: int) -> None:
        questions, connection = Questions(seed), Client(self.server.port)
        while self.asked < self.requests:
            self._next()
            name, asked = questions.next()
            try:
                reply = await connection.ask(PATHS[name], asked)
            except (OSError, EOFError, TimeoutError) as error:
                self.statuses[type(error).__name__] += 1
                continue
            self.statuses[str(reply.status)] += 1
            if reply.status in (429, 503):
                await asyncio.sleep(min(float(reply.headers.get("retry-after", 1)), 2))
        connection.leave()

    def _next(self) -> None:
        """Count a request, and do what is due by it."""
        self.asked += 1
        if self.asked % max(1, self.requests // SAMPLES) == 0:
            self.memory.append((self.asked, self.server.memory()))
            progress(f"\r{self.asked:,} of {self.requests:,} requests ")
        while self.due and self.due[-1][0] <= self.asked:
            _, what = self.due.pop()
            self.strike(what)

    def strike(self, what: signal.Signals) -> None:
        """A signal to a worker that has none yet, if there is one."""
        if workers := [worker for worker in workers_of(self.server) if state(worker) not in "TZX"]:
            os.kill(self.draw.choice(workers), what)

    async def _watch(self) -> None:
        while True:
            began = time.monotonic()
            try:
                async with asyncio.timeout(HEALTHY):
                    alive = await self.server.get("/health") is not None
            except TimeoutError:
                alive = False
            self.statuses["/health"] += not alive
            self.health.append(time.monotonic() - began)
            await asyncio.sleep(0.5)

    def growth(self) -> float:
        """By how much memory grew after the warm-up, as a part of it: a line through the samples, so that neither the
        garbage collector nor one large batch decides.
        """
        requests, sizes = np.array([sample for sample in self.memory if sample[0] > WARM * self.requests]).T
        slope, start = np.polyfit(requests, sizes, 1)
        return float(slope * (requests[-1] - requests[0]) / (slope * requests[0] + start))


def progress(what: str) -> None:
    """On one line, where someone looks on."""
    if sys.stderr.isatty():
        print(what, end="", file=sys.stderr)


def workers_of(server: Server) -> list[int]:
    """The processes that compute, by their numbers."""
    found = []
    for process in server.family()[1:]:
        try:
            if b"spawn_main" in Path(f"/proc/{process}/cmdline").read_bytes():
                found.append(process)
        except OSError:  # it has ended meanwhile
            continue
    return found


def state(process: int) -> str:
    """As ps says it; X where there is no such process."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def left_behind(soak: Soak, folder: Path) -> list[str]:
    """End the server by SIGTERM; what is there afterwards that should not be."""
    family = soak.server.family()
    soak.server.process.terminate()
    began = time.monotonic()
    soak.server.stop()
    print(f"it ended {time.monotonic() - began:.1f} s after SIGTERM, with {soak.server.process.returncode}")
    deadline = time.monotonic() + 10  # multiprocessing's own helper ends by itself, a moment later
    while any(state(process) not in "ZX" for process in family) and time.monotonic() < deadline:
        time.sleep(0.1)
    processes = [f"process {process}" for process in family if state(process) not in "ZX"]
    return processes + [str(file) for file in folder.rglob("*") if file.is_file()]


def faults(soak: Soak, calm: bool, left: list[str]) -> list[str]:
    """What is not as it must be."""
    found = [f"left behind: {each}" for each in left]
    allowed = {"200", "429"} if calm else {"200", "429", "503"}
    found += [f"{count} × {status}" for status, count in soak.statuses.items() if count and status not in allowed]
    if calm and soak.growth() > GROWTH:
        found.append(f"memory grew by {soak.growth():.1%}")
    if soak.server.process.returncode != -signal.SIGTERM:
        found.append(f"it ended with {soak.server.process.returncode}")
    return found


def main() -> None:
    """Print what was seen, and what is wrong with it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--stops", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backend", default="torch" if compiled.unavailable() else "native")
    parser.add_argument("--out", type=Path)
    told = parser.parse_args()
    draw = random.Random(told.seed)
    signals = [signal.SIGKILL] * told.kills + [signal.SIGSTOP] * told.stops
    draw.shuffle(signals)
    moments = sorted((draw.randrange(told.requests // 20, told.requests) for _ in signals), reverse=True)
    with tempfile.TemporaryDirectory() as there:
        folder = Path(there) / "tmp"
        folder.mkdir()
        os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TMPDIR": str(folder)}
        os.environ.setdefault("PHALANX_CACHE", f"{there}/cache")
        models = [f"hf:{model}" for model in make(Path(there), *SIZE)]
        words = ["-m", "phalanx", "serve", *models, "--port", "PORT", "--budget", BUDGET, "--workers", told.workers,
                 "--backend", told.backend]  # fmt: skip
        log = Path(there) / "log"
        soak = Soak(Server("phalanx serve", words, log), told.requests, draw, list(zip(moments, signals, strict=True)))
        try:
            asyncio.run(soak.run(told.clients))
            if told.stops:
                soak.strike(signal.SIGSTOP)
            wrong = faults(soak, not signals, left_behind(soak, folder))
        finally:
            soak.server.process.kill()
        lines = len(log.read_text().splitlines())
    report(soak, told, lines, wrong)
    sys.exit(bool(wrong))


def report(soak: Soak, told: argparse.Namespace, lines: int, wrong: list[str]) -> None:
    """In words, and as JSON where that was asked for."""
    sizes = [round(size) for _, size in soak.memory]
    statuses = ", ".join(f"{count:,} × {status}" for status, count in sorted(soak.statuses.items()) if count)
    print(f"\n{told.requests:,} requests: {statuses}; {told.kills} SIGKILLs and {told.stops} SIGSTOPs")
    print(f"/health answered {len(soak.health)} times, after {max(soak.health):.2f} s at most; {lines} lines of log")
    print(f"memory, MiB: {sizes[0]} at first, {sizes[int(WARM * len(sizes))]} after a third, {sizes[-1]} at the end; "
          f"{soak.growth():+.1%} by a line through what follows the first third")  # fmt: skip
    print(*(f"wrong: {each}" for each in wrong), *([] if wrong else ["nothing is wrong"]), sep="\n")
    if told.out:
        facts: dict[str, Any] = {"requests": told.requests, "statuses": dict(soak.statuses), "memory": soak.memory,
                                 "kills": told.kills, "stops": told.stops, "wrong": wrong}  # fmt: skip
        told.out.write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
