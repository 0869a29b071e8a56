"""Fresh processes for tests: forked from one that has imported everything and done nothing, each in a few tenths of a
second rather than four."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TypeVar

from phalanx.processor import schedule_as_batch
from tests.train.runs import hurry

T = TypeVar("T")

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    [
        "tests.train.processes",
        "tests.train.runs",
        "phalanx.tasks.run",
        "phalanx.cli",
        "phalanx.data.gpt",
        "phalanx.data.bert",
        "phalanx.models.gpt2",
        "phalanx.models.bert",
        "phalanx.models.gemma3",
        "phalanx.models.llama",
        "phalanx.models.olmo",
        "phalanx.models.qwen3",
        "phalanx.tasks.clm",
        "phalanx.tasks.mlm",
        "torch.distributed.pipelining",
        "torch._dynamo",
        "torch.utils.tensorboard",
        "tests.train.frozen",
    ]
)


def start(function: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """A fresh process that runs `function`."""
    process = _SERVER.Process(target=_hurried, args=(function, *arguments))
    process.start()
    return process


def in_fresh_process(function: Callable[..., T], *arguments: Any) -> T:
    """What `function` returns, run in a fresh process."""
    receive, send = _SERVER.Pipe(duplex=False)
    process = start(_send, send, function, *arguments)
    send.close()
    try:
        result: T = receive.recv()
    finally:
        process.join()
    return result


def train_to_the_end(path: Path) -> None:
    """`phalanx train PATH`, in this process, silently."""
    from phalanx.tasks import run
    from phalanx.train import monitor

    monitor.peak_flops = lambda *_: 1e9  # measuring takes longer than such a run
    run.train(str(path), quiet=True)


def command(where: Path, *words: str) -> None:
    """`phalanx WORDS` in the working directory `where`, silently, with its exit code."""
    from phalanx import cli
    from phalanx.train import monitor

    monitor.peak_flops = lambda *_: 1e9
    os.chdir(where)
    sys.argv = ["phalanx", *words]
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123
    cli.main()


def die_at_files(folder: Path, now: Callable[[], bool]) -> None:
    """Be killed before something is done to a file below `folder`: at the first such thing of which `now` is true."""
    below, doings = f"{folder}{os.sep}", {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event in doings and str(arguments[0]).startswith(below) and now():
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


def _hurried(function: Callable[..., None], *arguments: Any) -> None:
    hurry()
    schedule_as_batch()
    function(*arguments)


def _send(connection: Connection, function: Callable[..., Any], *arguments: Any) -> None:
    connection.send(function(*arguments))
