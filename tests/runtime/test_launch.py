"""What the launcher makes of its processes' ends, and what they make of its own."""

import os
import signal
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from phalanx import parent
from phalanx.runtime import launch
from phalanx.runtime.watchdog import EXIT_CODE
from tests.train.processes import start

SIGKILL, SIGTERM = -signal.SIGKILL, -signal.SIGTERM


@pytest.mark.parametrize(
    ("ends", "first"),
    [
        ({0: (0, 1), 1: (0, SIGKILL)}, (1, SIGKILL)),  # its neighbour fails within the second
        ({1: (0, 1), 0: (1, SIGTERM)}, (1, 1)),
        ({1: (0, EXIT_CODE), 0: (launch.OBEYING, SIGKILL)}, (1, EXIT_CODE)),  # a stopped one, killed by the launcher
        ({2: (0, 2), 0: (launch.OBEYING + 1, SIGKILL), 1: (1, SIGTERM)}, (2, 2)),
        ({0: (0, SIGKILL), 1: (launch.OBEYING, SIGKILL)}, (0, SIGKILL)),
    ],
)
def test_the_first_failure(ends: dict[int, tuple[int, int]], first: tuple[int, int]) -> None:
    """By rank: seconds after the first, exit code; in the order in which torch's launcher saw them."""
    failures = {rank: ProcessFailure(rank, 7, code, "") for rank, (_, code) in ends.items()}
    for rank, (seconds, _) in ends.items():
        failures[rank].timestamp = 1000 + seconds
    assert launch.first_failure(ChildFailedError("phalanx", failures)) == first


def _launcher(says: Connection, knows: bool, late: bool) -> None:
    """Starts a rank and does no more; with `late`, it is gone before the rank has come to its first line."""
    launcher = os.getpid()
    os.environ["TORCHELASTIC_RUN_ID"] = "x"
    if knows:
        os.environ[parent.LAUNCHER] = str(launcher)
    if not os.fork():
        says.send(os.getpid())
        while late and os.getppid() == launcher:
            time.sleep(0.001)
        parent.end_with_launcher()
        says.send("alive")
        time.sleep(1000)
        os._exit(0)
    if not late:
        time.sleep(1000)
    os._exit(0)


@pytest.mark.parametrize("knows", [True, False])
def test_a_stopped_rank_ends_with_its_launcher(knows: bool) -> None:
    """With torchrun's agent too, which does not say who it is."""
    hears, says = Pipe(duplex=False)
    process = start(_launcher, says, knows, False)
    says.close()
    rank = hears.recv()
    assert hears.recv() == "alive"
    os.kill(rank, signal.SIGSTOP)
    process.kill()
    with pytest.raises(EOFError):  # no one is left who could speak
        hears.recv()


def test_a_rank_that_comes_after_the_end_of_its_launcher_ends() -> None:
    hears, says = Pipe(duplex=False)
    start(_launcher, says, True, True)
    says.close()
    hears.recv()
    with pytest.raises(EOFError):
        hears.recv()
