"""The processes of a run: who starts them, how they find each other, and that they agree.

One command starts all local processes through torchrun's elastic launcher. Under torchrun, or srun, on several machines
the same command is run by each process and finds its place in the environment.
"""

import datetime
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from phalanx.errors import InputError
from phalanx.parallel import rendezvous

TIMEOUT = datetime.timedelta(minutes=10)


def rank() -> int:
    """This process's place among those of the run; 0 where there is one."""
    return int(os.environ.get("RANK", "0"))


def world() -> int:
    """Processes of the run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def adopt_slurm() -> None:
    """Under srun with several tasks, say in torchrun's words what Slurm says in its own. Without srun there is no step:
    a job's script has a SLURM_PROCID too, and speaks of the tasks that it has yet to start.
    """
    env = os.environ
    tasks = env.get("SLURM_STEP_NUM_TASKS", "1")
    if "RANK" in env or tasks == "1":
        return
    env["RANK"], env["WORLD_SIZE"], env["LOCAL_RANK"] = env["SLURM_PROCID"], tasks, env["SLURM_LOCALID"]
    if "MASTER_ADDR" not in env:
        names = subprocess.run(
            ["scontrol", "show", "hostnames", env["SLURM_STEP_NODELIST"]], capture_output=True, text=True, check=True
        )
        env["MASTER_ADDR"] = names.stdout.split()[0]
    env.setdefault("MASTER_PORT", str(20000 + int(env["SLURM_JOB_ID"]) % 20000))


def join(device: torch.device) -> None:
    """Meet the other processes. InputError when they do not come."""
    if world() == 1 or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    try:
        store = rendezvous.meet(rank(), world())
        rendezvous.choose_interface(store, rank(), world())
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", store=PrefixStore("phalanx", store),
            rank=rank(), world_size=world(), timeout=TIMEOUT,
        )  # fmt: skip
    except (dist.DistError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"rank {rank()} of {world()} could not meet the others at {where}: {reason}; are all of them started, and "
            "is that address reachable and its port free?"
        ) from error


def leading(action: Callable[[], None]) -> None:
    """Let rank 0 do something before all go on; its error, if it is the user's, is everybody's."""
    outcome: list[Exception | None] = [None]
    if rank() == 0:
        try:
            action()
        except (InputError, OSError) as error:
            outcome[0] = error
    if dist.is_initialized():
        dist.broadcast_object_list(outcome)
    if outcome[0]:
        raise outcome[0]


def leave() -> None:
    """Part from the other processes, when all have come this far."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def agree(facts: dict[str, str]) -> None:
    """InputError, on every rank, that names a key of `facts` on which the processes differ, and which ranks."""
    if not dist.is_initialized():
        return
    facts = {"torch": torch.__version__, "python": platform.python_version(), **facts}
    everyone: list[dict[str, str]] = [{}] * dist.get_world_size()
    dist.all_gather_object(everyone, facts)
    for key in sorted({key for each in everyone for key in each}):
        values = [each.get(key, "absent") for each in everyone]
        others = [number for number, value in enumerate(values) if value != values[0]]
        if others:
            raise InputError(
                f"{key} is {values[0]} on rank 0 but {values[others[0]]} on rank {', '.join(map(str, others[:8]))}"
                f"{' and more' if len(others) > 8 else ''}; start every process with the same command and installation"
            )


def launch(arguments: Sequence[str], processes: int, restarts: int = 0) -> int:
    """Run `phalanx ARGUMENTS` in so many local processes; their exit code. After a crash, but not after an error of the
    user's, all start again from the last checkpoint, at most `restarts` times.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what went wrong is said by its process
    threads = max(1, (os.cpu_count() or 1) // processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        max_restarts=0, monitor_interval=0.2, run_id="phalanx",
    )  # fmt: skip
    for attempt in range(restarts + 1):
        try:
            elastic_launch(config, sys.executable)("-m", "phalanx", *arguments)
            return 0
        except SignalException as stopped:
            return 128 + stopped.sigval.value
        except ChildFailedError as failed:
            number, failure = failed.get_first_failure()
            code = failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
            if code == 2 or attempt == restarts:
                return code
            print(
                f"phalanx: rank {number} ended with {code}; starting again from the last checkpoint "
                f"({attempt + 1} of {restarts})", file=sys.stderr,
            )  # fmt: skip
    return 1
