"""The server: the app behind its guard, under uvicorn, until SIGTERM; what is under way then is finished."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import uvicorn

from phalanx.errors import InputError
from phalanx.serve.api import make
from phalanx.serve.crew import Crew
from phalanx.serve.guard import Guard, read_keys
from phalanx.serve.jobs import Spec

GRACE = 5  # seconds past the budget for what is under way when the server is told to stop
KEPT = 75  # seconds that a connection lies idle: longer than Retry-After says, and than proxies keep theirs


@dataclass(frozen=True)
class Options:
    """How to serve."""

    host: str
    port: int
    queue: int
    budget: float
    body: int
    keys: Path | None
    threads: int
    workers: int


def specs(models: Sequence[str], backend: str, precision: str) -> list[Spec]:
    """Models by name: NAME=SOURCE, or the last part of the source."""
    found: dict[str, Spec] = {}
    for model in models:
        name, equals, source = model.partition("=")
        if not equals:
            name, source = Path(model.removeprefix("hf:")).resolve().name, model
        if name in found:
            raise InputError(f"two models are called {name}; call one otherwise: NAME={source}")
        where = Path(source.removeprefix("hf:")).absolute()
        if not where.is_dir():
            raise InputError(f"{source} is no folder; give a run, or hf:FOLDER")
        found[name] = Spec(name, f"hf:{where}" if source.startswith("hf:") else str(where), backend, precision)
    return list(found.values())


def serve(models: Sequence[Spec], options: Options) -> None:
    """Until it is told to stop."""
    gpus = torch.cuda.device_count()
    devices: list[int | None] = [*range(gpus)] if gpus else [None] * options.workers
    threads = options.threads or max(1, len(os.sched_getaffinity(0)) // len(devices))
    crew = Crew(models, devices, threads, options.queue, options.budget)
    app = make(crew)
    guarded = Guard(app, options.body, read_keys(options.keys) if options.keys else [], app.state.metrics.told)
    server = uvicorn.Server(uvicorn.Config(
        guarded, host=options.host, port=options.port, log_level="warning",
        server_header=False, timeout_keep_alive=KEPT, timeout_graceful_shutdown=math.ceil(options.budget) + GRACE,
    ))  # fmt: skip

    def stop() -> None:
        server.should_exit = True

    crew.on_failure = stop
    server.run()
    if crew.failure:
        raise InputError(crew.failure)
