"""The process group of a run: who starts its processes, how they find each other, and that they agree.

One command starts all local processes (launch.py). Under torchrun, or srun, on several machines the same command is run
by each process, finds its place in the environment and there the others (rendezvous.py).
"""

import datetime
import os
import platform
import subprocess

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from phalanx import processor
from phalanx.errors import InputError
from phalanx.runtime import interfaces
from phalanx.runtime.on_all_ranks import gather_objects
from phalanx.runtime.rendezvous import rank, wait_for_all, world
from phalanx.units import ranks

TIMEOUT = datetime.timedelta(minutes=10)  # the watchdog comes before
READING = 120.0  # seconds in which all have read their recipe and tokenizer


def adopt_slurm() -> None:
    """Say in torchrun's words what Slurm says in its own, under srun with several tasks. Without srun there is no step:
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


def join(device: torch.device, store: Store | None) -> None:
    """Make the process group of those who met at `store`. InputError where one of them has met with an error since."""
    if store is None or dist.is_initialized():
        return
    wait_for_all(store, "ready", READING)

    interfaces.choose(store, rank(), world())
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    else:
        processor.schedule_as_batch()

    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", store=PrefixStore("group", store),
        rank=rank(), world_size=world(), timeout=TIMEOUT,
    )  # fmt: skip


def leave() -> None:
    """Part from the other processes, when all have come this far."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def check_agreement(facts: dict[str, str]) -> None:
    """Raise InputError, on every rank, that names a key of `facts` on which the processes differ, and which ranks."""
    if not dist.is_initialized():
        return
    facts = {"torch": torch.__version__, "python": platform.python_version(), **facts}
    everyone = gather_objects(facts, dist.group.WORLD)
    # In one order, so that all ranks name the same key.
    for key in sorted({key for each in everyone for key in each}):
        values = [each.get(key, "absent") for each in everyone]
        others = [number for number, value in enumerate(values) if value != values[0]]
        if others:
            raise InputError(
                f"{key} is {values[0]} on rank 0 but {values[others[0]]} on {ranks(others)}; "
                "start every process with the same command and installation"
            )
