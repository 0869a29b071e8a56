"""Many clients at once: `phalanx serve`, the engine under it without HTTP, and the plainest server, in one run.

    python -m benchmarks.load [--clients 200] [--seconds 120] [--out FILE]

Models are small, with random weights; questions, classes, embeddings and completions are asked in a mix. Every client
asks again once it is answered, and on 429 when Retry-After says. The engine is the worker's own loop with as many
askers in the same process: the same batches, and nothing sent. It is measured before and after the server.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.asking import PATHS, Client, Questions, Server, make

BUDGET = 10.0  # seconds that `phalanx serve` may take for a request
MARKS = (0.25, 0.5, 0.75, 1.0)  # of the time, when memory is looked at


@dataclass
class Kind:
    """What became of the requests of a kind. `within` counts those answered in time, `said` their answers, texts or
    tokens.
    """

    times: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    within: int = 0
    said: int = 0

    def line(self, seconds: float) -> dict[str, Any]:
        """A second's worth, and milliseconds of those that were accepted."""
        p50, p99 = np.percentile(self.times or [np.nan], [50, 99]) * 1e3
        return {"per_s": self.within / seconds, "said_per_s": self.said / seconds, "p50_ms": float(p50),
                "p99_ms": float(p99), "statuses": dict(self.statuses)}  # fmt: skip


async def client(port: int, seed: int, until: float, kinds: dict[str, Kind]) -> None:
    """Ask until then."""
    questions, connection = Questions(seed), Client(port)
    while time.monotonic() < until:
        name, asked = questions.next()
        kind, began = kinds[name], time.monotonic()
        try:
            reply = await connection.ask(PATHS[name], asked)
        except (OSError, EOFError, TimeoutError) as error:
            kind.statuses[type(error).__name__] += 1
            await asyncio.sleep(0.1)
            continue
        count, now = said(name, reply.body) if reply.status == 200 else 0, time.monotonic()
        kind.statuses[str(reply.status) if count or reply.status != 200 else "broken off"] += 1
        if count:
            kind.times.append(now - began)
            kind.within += now < until
            kind.said += count * (now < until)
        elif reply.status in (429, 503):
            await asyncio.sleep(min(float(reply.headers.get("retry-after", 1)), 5, max(0, until - time.monotonic())))
    connection.leave()


def said(kind: str, body: bytes) -> int:
    """Tokens of a completion, texts embedded, or one answer; none of a stream that broke off."""
    if kind == "stream":
        events = [json.loads(line[6:]) for line in body.decode().split("\n") if line.startswith("data: {")]
        return int(events[-1].get("usage", {"completion_tokens": 0})["completion_tokens"])
    found = json.loads(body)
    return int(found["usage"]["completion_tokens"]) if kind == "complete" else len(found.get("vectors", [0]))


async def load(server: Server, clients: int, seconds: float) -> dict[str, Any]:
    """The mix, for so long."""
    await server.until_ready()
    warm = Client(server.port)
    for kind, path in PATHS.items():
        await warm.ask(path, Questions(0).of(kind))
    warm.leave()
    kinds, memory = {kind: Kind() for kind in PATHS}, list[int]()
    began = time.monotonic()
    asking = asyncio.gather(*(client(server.port, seed, began + seconds, kinds) for seed in range(1, clients + 1)))
    while (past := time.monotonic() - began) < seconds or len(memory) < len(MARKS):
        if past >= MARKS[len(memory)] * seconds:
            memory.append(round(server.memory()))
        answered = sum(len(kind.times) for kind in kinds.values())
        progress(f"{server.name}: {answered:,} answered", past, seconds)
        await asyncio.sleep(0.5)
    await asking
    each = kinds.values()
    whole = Kind([time for kind in each for time in kind.times], sum((kind.statuses for kind in each), Counter()),
                 sum(kind.within for kind in each))  # fmt: skip
    lines = {name: kind.line(seconds) for name, kind in (kinds | {"all": whole}).items()}
    return {"name": server.name, "kinds": lines, "memory_mib": memory}


class Askers:
    """Stands where a worker's pipe does: each asks again once it is answered."""

    def __init__(self, clients: int) -> None:
        self.questions = [Questions(seed) for seed in range(1, clients + 1)]
        self.done, self.due = 0, deque(self._job(number) for number in range(clients))

    def poll(self) -> bool:
        """Whether someone asks."""
        return bool(self.due)

    def recv(self) -> Any:
        """A job."""
        return self.due.popleft()

    def send(self, reply: Any) -> None:
        """An answer, or a part of one."""
        if reply.status != 200:
            raise SystemExit(f"the engine: {reply.result}")
        if reply.last:
            self.done += 1
            self.due.append(self._job(reply.number))

    def _job(self, number: int) -> Any:
        from phalanx.serve import schemas
        from phalanx.serve.messages import Job

        forms: dict[str, Any] = {"answer": schemas.Question, "classify": schemas.Classify, "embed": schemas.Embed}
        models = {"answer": "span", "classify": "classes", "embed": "plain"}
        kind, body = self.questions[number].next()
        if kind in forms:
            return Job(number, models[kind], kind, forms[kind](**body).model_dump(), time.monotonic() + 1e6)
        asked = {"prompt": body["prompt"], "options": schemas.Completion(**body).options(0, number)}
        return Job(number, "gpt", "complete", asked, time.monotonic() + 1e6)


def engine(end: Any, folders: list[Path], clients: int, seconds: float) -> None:
    """Requests a second of the worker's loop, in a process of its own."""
    import torch

    from phalanx.infer import load
    from phalanx.infer.encoder_model import EncoderModel
    from phalanx.serve.worker import Worker

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    models = {folder.name: load(f"hf:{folder}", log=lambda _: None) for folder in folders}
    for model in models.values():
        if isinstance(model, EncoderModel):
            model.ready()
    askers = Askers(clients)
    pipe: Any = askers
    worker = Worker(models, pipe)
    for measured in (0.1 * seconds, seconds):  # the first is not counted
        began, before = time.monotonic(), askers.done
        while (past := time.monotonic() - began) < measured:
            worker.turn()
            progress(f"the engine: {askers.done - before:,} answered", past, measured)
    end.send((askers.done - before) / (time.monotonic() - began))


def alone(folders: list[Path], clients: int, seconds: float) -> float:
    """`engine` in a process that is gone afterwards."""
    here, away = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=engine, args=(away, folders, clients, seconds))
    process.start()
    away.close()
    found: float = here.recv()
    process.join()
    return found


def progress(what: str, past: float, seconds: float) -> None:
    """On one line."""
    left = round(max(0, seconds - past))
    print(f"\r{what}, {min(1, past / seconds):.0%}, {left // 60}:{left % 60:02} left ", end="", file=sys.stderr)


def table(found: dict[str, Any]) -> list[str]:
    """Markdown."""
    lines = [f"\n{found['name']}", "| |requests/s|answers, texts or tokens/s|p50, ms|p99, ms|statuses|",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for name, line in found["kinds"].items():
        said = f"{line['said_per_s']:.1f}" if name != "all" else ""
        told = ", ".join(f"{count} × {status}" for status, count in line["statuses"].items())
        lines.append(f"|{name}|{line['per_s']:.1f}|{said}|{line['p50_ms']:.0f}|{line['p99_ms']:.0f}|{told}|")
    marks = ", ".join(f"{size} at {mark:.0%}" for mark, size in zip(MARKS, found["memory_mib"], strict=True))
    return [*lines, f"memory, MiB: {marks}"]


def main() -> None:
    """Print a table for each server."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    clients, seconds = arguments.clients, arguments.seconds
    print(f"{len(os.sched_getaffinity(0))} cores, {clients} clients, {seconds:.0f} s, budget {BUDGET:.0f} s")
    with tempfile.TemporaryDirectory() as there:
        os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        os.environ.setdefault("PHALANX_CACHE", f"{there}/cache")
        folders = make(Path(there))
        sources = [f"hf:{folder}" for folder in folders]
        ours = ["-m", "phalanx", "serve", *sources, "--port", "PORT", "--budget", BUDGET]
        plain = ["-m", "benchmarks.plain_server", there, "PORT"]
        rates, servers = [alone(folders, clients, seconds / 4)], []
        for name, words in (("phalanx serve", ours), ("FastAPI and Hugging Face, one by one", plain)):
            server = Server(name, words, Path(there) / "log")
            try:
                servers.append(asyncio.run(load(server, clients, seconds)))
            finally:
                server.stop()
            print(*table(servers[-1]), sep="\n", flush=True)
            if name == "phalanx serve":
                rates.append(alone(folders, clients, seconds / 4))
    served = servers[0]["kinds"]["all"]["per_s"]
    print(f"\nthe engine alone: {rates[0]:.1f} requests/s before, {rates[1]:.1f} after; "
          f"served {served / np.mean(rates):.0%} of it, {served / servers[1]['kinds']['all']['per_s']:.1f} times the "
          f"plainest server's")  # fmt: skip
    if arguments.out:
        facts = {"clients": clients, "seconds": seconds, "budget_s": BUDGET, "engine_per_s": rates, "servers": servers}
        arguments.out.write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
