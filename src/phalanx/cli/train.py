"""Verbs that train: on this machine, on a layout beside one process, on a cluster."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phalanx.cli.app import among_others, app, group, source_of
from phalanx.cli.help import TakesWords, Trains, Tunes
from phalanx.errors import InputError

if TYPE_CHECKING:
    from phalanx.run.import_record import ModelSource

REFUSED = 2  # the exit code of a command that was given bad input

launch_app = group("launch", "Hand a run to a cluster's queue.")


@app.command(cls=Trains)
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, a TOML file, or a run folder to continue.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value words over the recipe.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/RECIPE by default.")] = None,
    init: Annotated[
        str, typer.Option("--from", help="A run whose model and weights to begin with, as phalanx import makes them.")
    ] = "",
    procs: Annotated[
        int, typer.Option(min=0, help="Processes to start here; 0: as many as the layout names, or one a GPU.")
    ] = 0,
    restarts: Annotated[
        int, typer.Option(min=0, help="Times to start again, from the last checkpoint, after a crash.")
    ] = 0,
) -> None:
    """Train a GPT or a BERT by a recipe, or continue a run: phalanx train gpt-tiny data.train=books

    A run that was interrupted continues where it stopped, bit for bit, when the same command is given again, or with:
    phalanx train RUN

    On several devices: phalanx train gpt2-355m data.train=books layout.tp=2 starts the local processes itself; under
    torchrun or srun the same command is one process of many. A run may continue on another layout.
    """
    from phalanx.runtime import launch
    from phalanx.tasks.run import processes_here, words_from
    from phalanx.tasks.run import train as run

    words = [*(words_from(init) if init else ()), *(overrides or ())]
    code = launch.in_processes(lambda: procs or processes_here(recipe, words, out), restarts)
    if code is not None:
        raise typer.Exit(code)
    stopped_by = run(recipe, words, out)
    if stopped_by:
        raise typer.Exit(128 + stopped_by)


@app.command(cls=Tunes)
def tune(
    run: Annotated[str, typer.Argument(help="A run whose model to fine-tune, or hf:FOLDER.", metavar="RUN")],
    task: Annotated[
        str,
        typer.Option(
            help="sst2, cola, mrpc, stsb, qqp, mnli, qnli, rte, wnli, squad, squad2, race, swag; or, on columns of "
            "your own, classes, value, tokens (BERT), completion (GPT), or module:Name."
        ),
    ],
    data: Annotated[Path, typer.Option(help="The folder of the task's files, or the training file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value words over the task's own.")] = None,
    valid: Annotated[Path | None, typer.Option(help="The held-out file; by default the folder's, or a tenth.")] = None,
    text: Annotated[str, typer.Option(help="Column of the text; a number where a table has no head.")] = "",
    pair: Annotated[str, typer.Option(help="Column of a second text.")] = "",
    label: Annotated[str, typer.Option(help="Column of the class, number or completion.")] = "",
    epochs: Annotated[float, typer.Option(min=0, help="Passes over the examples; 0 takes the task's own.")] = 0.0,
    sweep: Annotated[
        list[str] | None, typer.Option(help="key=value,value: a run for each, as lr=1e-5,3e-5; repeat for a grid.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each setting, with seeds from train.seed on.")] = 1,
    out: Annotated[Path | None, typer.Option(help="The run folder; RUN-TASK by default.")] = None,
    procs: Annotated[int, typer.Option(min=0, help="Processes to start here, as for phalanx train.")] = 0,
) -> None:
    """Fine-tune a model on labelled examples: phalanx tune runs/bert --task sst2 --data glue/SST-2

    The checkpoint that is best by the task's metric is kept. An interrupted run, or sweep, goes on when the same
    command is given again. phalanx eval judges the result on other files.
    """
    from phalanx.tasks import tune as tuning

    source = source_of(run)
    out = out or Path(f"{source.folder}-{task.rpartition(':')[2]}")
    if (sweep or seeds > 1) and among_others():
        raise InputError("a sweep starts its processes itself: run phalanx tune once, with --procs")

    wish = tuning.Wish(run, task, data, valid, text, pair, label, epochs)
    asked = tuning.planned(wish, overrides or [], sweep or [], seeds)
    with _brought(source, out) as model:
        if code := tuning.fit_all(asked, model, out, procs):
            raise typer.Exit(code)


@app.command(cls=Trains)
def check(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, a TOML file, or a run folder.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value words over the recipe.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps to compare.")] = 12,
    procs: Annotated[int, typer.Option(min=0, help="Processes to start here, as for phalanx train.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A PNG of both curves and their difference.")] = None,
) -> None:
    """See that a layout gives the curve of one process: phalanx check gpt-tiny data.train=books layout.tp=2

    The first steps of the run are done on both, and nothing is saved. Exit code 0 where the curves agree, 1 where they
    do not or are too steep to tell. Under torchrun or srun it runs on all their processes, as phalanx train does.
    """
    from phalanx.runtime import launch
    from phalanx.tasks.check import check as compare
    from phalanx.tasks.run import processes_here

    code = launch.in_processes(lambda: procs or processes_here(recipe, overrides or [], None))
    if code is not None:
        raise typer.Exit(code)
    compared = compare(recipe, overrides or [], steps)
    if compared is None:
        return
    print(*compared.lines(), sep="\n", flush=True)
    if (done := len(compared.curves[0])) < steps:
        print(
            f"all {done} steps of the run were compared, as train.steps={done}, not the {steps} of --steps", flush=True
        )
    if out:
        from phalanx.report.comparison import draw

        draw(compared, out)
    raise typer.Exit(0 if compared.agree else 1)


@contextmanager
def _brought(source: "ModelSource", out: Path) -> Iterator[str]:
    """The run folder of a model; for hf:FOLDER one beside `out`, which is locked as long as the block runs. Where the
    block is refused before a step was done, what was made here goes again.
    """
    from phalanx.convert.huggingface import import_folder
    from phalanx.run.folder import RunFolder
    from phalanx.run.import_record import ImportRecord

    if not source.form:
        yield str(source)
        return

    model, fresh = RunFolder(out.with_name(f"{out.name}-model")), not out.exists()
    if made := not model.exists:
        print(*import_folder(source.folder, model.path).lines(), sep="\n")

    begun, asked = ImportRecord.read(model).source, f"hf:{source.folder.resolve()}"
    if begun not in ("", asked):
        raise InputError(
            f"{out} was begun from {begun}, not from {asked}; give another --out, or go on with that model: "
            f"phalanx tune {model.path} --out {out}"
        )

    with model.lock():
        try:
            yield str(model.path)
        except (InputError, typer.Exit) as error:
            refused = isinstance(error, InputError) or error.exit_code == REFUSED
            trained = any(out.rglob("metrics.jsonl")) or any(out.rglob("step-*"))
            if refused and not trained and (not fresh or _removed(out)) and made:
                shutil.rmtree(model.path)
            raise


def _removed(out: Path) -> bool:
    """Remove the runs in `out`, unless another command is at work there; whether they are gone."""
    from phalanx.run.folder import RunFolder

    try:
        with ExitStack() as held:
            for lock in out.rglob("lock"):
                held.enter_context(RunFolder(lock.parent).lock())
            if out.exists():
                shutil.rmtree(out)
    except InputError:
        return False
    return True


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
