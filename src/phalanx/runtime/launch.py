"""Start the local processes of a run through torchrun's elastic launcher, and start them again after a crash."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from phalanx import processor
from phalanx.parent import LAUNCHER
from phalanx.runtime import process_group, rendezvous

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

SAVING = 600  # seconds that processes have to save, once told to stop
OBEYING = 30  # seconds after which torch kills those that go on after another has failed


def launch(arguments: Sequence[str], processes: int, restarts: int | None = None) -> int:
    """Run `phalanx ARGUMENTS` in so many local processes. Return their exit code. After a crash or a hang, but not
    after a user's error, all start again from the last checkpoint, at most `restarts` times; None: they have none.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in ("torch.distributed.elastic", "torch.distributed.elastic.agent.server.api"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what went wrong is said by its process

    threads = max(1, processor.cpus() // processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SAVING))
    os.environ[LAUNCHER] = str(os.getpid())

    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        max_restarts=0, monitor_interval=0.2, run_id="phalanx", logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
    )  # fmt: skip

    for attempt in range((restarts or 0) + 1):
        try:
            elastic_launch(config, sys.executable)("-m", "phalanx", *arguments)
            return 0
        except SignalException as stopped:
            return 128 + stopped.sigval.value
        except ChildFailedError as failed:
            number, code = first_failure(failed)
            if code == 2 or (code == 1 and restarts is None):
                return code
            print(f"phalanx: {_ended(number, code)}{_then(attempt, restarts)}", file=sys.stderr)
    return 128 - code if code < 0 else code


def in_processes(
    wanted: Callable[[], int], restarts: int | None = None, arguments: Sequence[str] | None = None
) -> int | None:
    """Run this command, or that of `arguments`, in as many local processes as are `wanted`. Return their exit code;
    None where this process is to run it itself: where one is wanted, or it is one of several already.
    """
    process_group.adopt_slurm()
    count = wanted() if rendezvous.world() == 1 else 1
    return launch(arguments or sys.argv[1:], count, restarts) if count > 1 else None


def first_failure(failed: "ChildFailedError") -> tuple[int, int]:
    """Return the rank that failed first, and its exit code, negative for a signal. Its neighbours fail too within the
    second that the times of failures are told in, but by themselves or by the launcher's SIGTERM: a process that
    another signal ended comes first. Those that the launcher had to kill in the end come last.
    """
    first, earliest = failed.get_first_failure()
    codes = {n: each.exitcode for n, each in failed.failures.items() if each.timestamp < earliest.timestamp + OBEYING}
    killed = [number for number, code in codes.items() if code < 0 and code != -signal.SIGTERM]
    number = min(killed, default=first)
    return number, codes[number]


def _ended(number: int, code: int) -> str:
    from phalanx.runtime.watchdog import EXIT_CODE

    if code < 0:
        return f"rank {number} was killed by {signal.Signals(-code).name}"
    return "the processes hung" if code == EXIT_CODE else f"rank {number} ended with exit code {code}"


def _then(attempt: int, restarts: int | None) -> str:
    """Return what follows the end of an attempt, the first of which is 0, as the end of a sentence."""
    if restarts is None:
        return ""
    if attempt < restarts:
        return f"; starting again from the last checkpoint ({attempt + 1} of {restarts})"
    return f"; no restart is left of {restarts}" if restarts else "; --restarts N would start it again"
