"""The server: the app behind its guard, under uvicorn, until SIGTERM; what is under way then is finished."""

import math
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from phalanx import processor
from phalanx.errors import InputError
from phalanx.run.import_record import ModelSource
from phalanx.serve.api import make
from phalanx.serve.http_server import HttpServer, raise_files
from phalanx.serve.messages import WorkerSpec
from phalanx.serve.middleware import Middleware, read_keys
from phalanx.serve.scratch import sweep
from phalanx.serve.worker_pool import WorkerPool

GRACE = 5  # seconds past the budget for what is under way when the server is told to stop


@dataclass(frozen=True)
class Options:
    """How to serve: where to listen, what to refuse (`queue` texts at most, `budget` seconds each, `body` bytes), the
    file of API keys, and the processes that compute with the threads of each (0: by the CPUs).
    """

    host: str
    port: int
    queue: int
    budget: float
    body: int
    keys: Path | None
    threads: int
    workers: int


def specs(models: Sequence[str], backend: str, precision: str) -> list[WorkerSpec]:
    """Return the models to serve: NAME=SOURCE, or a source, whose last part is the name. InputError where names collide
    or a source is no folder.
    """
    by_name: dict[str, WorkerSpec] = {}
    for model in models:
        name, equals, given = model.partition("=")
        source = ModelSource.of(given if equals else model)
        name = name if equals else source.name
        if name in by_name:
            raise InputError(f"two models are called {name}; call one otherwise: NAME={source}")
        if not name:
            raise InputError(f"{model!r} names no model; give a run, hf:FOLDER, or NAME= before either")
        folder = source.local()
        if not (folder.is_dir() or (source.form == "gguf" and folder.is_file())):
            raise InputError(f"{source} is no folder; give a run, hf:FOLDER or gguf:FILE")
        by_name[name] = WorkerSpec(name, str(source._replace(folder=folder.absolute())), backend, precision)
    return list(by_name.values())


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: {error.strerror}; choose another") from None
    return listener


def serve(models: Sequence[WorkerSpec], options: Options) -> None:
    """Serve until the process is told to stop. InputError where it cannot listen, or the models cannot be loaded."""
    if not math.isfinite(options.budget):
        raise InputError(f"--budget {options.budget}: give seconds")
    if options.workers > (most := max(16, 4 * processor.cpus())):  # every one holds the models
        raise InputError(f"--workers {options.workers}: {processor.cpus()} CPUs can be used here; give {most} at most")

    keys = read_keys(options.keys) if options.keys else []
    listening = _listening(options.host, options.port)
    gpus = torch.cuda.device_count()
    devices: list[int | None] = [*range(gpus)] if gpus else [None] * options.workers
    threads = options.threads or max(1, processor.cpus() // len(devices))

    sweep()
    pool = WorkerPool(models, devices, threads, options.queue, options.budget)
    app = make(pool)
    guard = Middleware(app, options.body, keys, app.state.metrics.observe, app.state.pages)
    server = HttpServer(guard, listening, raise_files(), math.ceil(options.budget) + GRACE, guard.drain)

    def stop() -> None:
        server.should_exit = True

    pool.on_failure = stop

    names, port = ", ".join(model.name for model in models), listening.getsockname()[1]
    print(f"phalanx: http://{options.host}:{port} serves {names}; /ready says when", flush=True)
    server.run()
    if pool.restartable:
        print(f"phalanx: {pool.failure}", file=sys.stderr)
        sys.exit(1)
    if pool.failure:
        raise InputError(pool.failure)
