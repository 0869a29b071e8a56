"""The app and a real worker, without a server: requests are calls of this process."""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from starlette.testclient import TestClient

from phalanx.serve.api import make
from phalanx.serve.messages import WorkerSpec
from phalanx.serve.worker import work
from phalanx.serve.worker_pool import WorkerPool
from tests.train.processes import start


@contextmanager
def serving(*specs: WorkerSpec) -> Iterator[TestClient]:
    """A client of an app whose only worker, a forked process, has loaded its models."""
    pool = WorkerPool(specs, [None], 1, 8, 600)
    pool.workers[0].launch = lambda pipe: start(work_forked, specs, pipe)
    with TestClient(make(pool)) as client:
        while not pool.ready:
            assert not pool.failure, pool.failure
            time.sleep(0.02)
        yield client


def work_forked(specs: Sequence[WorkerSpec], pipe: socket.socket) -> None:
    """Be a worker: with one thread, and no folder for temporary files."""
    work(specs, pipe, None, 1, "", os.getppid())
