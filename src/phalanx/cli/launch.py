"""The verb that hands a run to a cluster."""

from pathlib import Path
from typing import Annotated

import typer

from phalanx.cli.app import group
from phalanx.cli.help import TakesWords
from phalanx.errors import InputError

launch_app = group("launch", "Hand a run to a cluster's queue.")


@launch_app.command("slurm", cls=TakesWords)
def launch_slurm(
    recipe: Annotated[str, typer.Argument(help="As for phalanx train.")],
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="As for phalanx train.")] = None,
    gpus_per_node: Annotated[int, typer.Option(min=0, help="GPUs of a machine, and so its processes.")] = 0,
    procs_per_node: Annotated[int, typer.Option(min=0, help="Processes of a machine without GPUs.")] = 0,
    cpus_per_proc: Annotated[int, typer.Option(min=1, help="Cores, and threads, of a process.")] = 4,
    time: Annotated[str, typer.Option(help="Time limit, as Slurm writes it; the partition's own by default.")] = "",
    grace: Annotated[
        int, typer.Option(min=1, max=65535, help="Seconds before the time limit at which to save and queue again.")
    ] = 300,
    restarts: Annotated[
        int, typer.Option(min=0, help="Times to start again, from the last checkpoint, after a crash.")
    ] = 0,
    partition: Annotated[str, typer.Option(help="The partition.")] = "",
    account: Annotated[str, typer.Option(help="The account to charge.")] = "",
    job_name: Annotated[str, typer.Option(help="The run folder's name by default.")] = "",
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/RECIPE by default.")] = None,
    sbatch: Annotated[list[str] | None, typer.Option(help="key=value of any other option of sbatch; repeat.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the script; write and submit nothing.")] = False,
) -> None:
    """Train on a Slurm cluster: phalanx launch slurm gpt2-8.3b data.train=x layout.tp=8 --nodes 64 --gpus-per-node 8

    Writes RUN/slurm.sh and submits it. Preempted or out of time, the job saves, queues again and goes on.
    """
    from phalanx.launch.slurm import Job, launch

    if (gpus_per_node > 0) == (procs_per_node > 0):
        raise InputError("say either --gpus-per-node or, for machines without GPUs, --procs-per-node")
    named = {"partition": partition, "account": account}
    options = (*(f"{key}={value}" for key, value in named.items() if value), *(sbatch or ()))
    processes, gpus = gpus_per_node or procs_per_node, gpus_per_node > 0
    job = Job(nodes, processes, gpus, cpus_per_proc, time, grace, restarts, job_name, options)
    print(launch(recipe, overrides or [], out, job, dry_run))
