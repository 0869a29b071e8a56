"""Verbs that train: by a recipe, and on a layout beside one process."""

from pathlib import Path
from typing import Annotated

import typer

from phalanx.cli.app import app
from phalanx.cli.help import Trains


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
    """Train a GPT, a Llama or a BERT by a recipe, or continue a run: phalanx train gpt-tiny data.train=books

    A run that was interrupted continues where it stopped, bit for bit, when the same command is given again, or with:
    phalanx train RUN

    On several devices: phalanx train gpt2-355m data.train=books layout.tp=2 starts the local processes itself; under
    torchrun or srun the same command is one process of many. A run may continue on another layout.
    """
    from phalanx.run.folder import words_from
    from phalanx.runtime import launch
    from phalanx.tasks.run import processes_here
    from phalanx.tasks.run import train as run

    words = [*(words_from(init) if init else ()), *(overrides or ())]
    code = launch.in_processes(lambda: procs or processes_here(recipe, words, out), restarts)
    if code is not None:
        raise typer.Exit(code)
    stopped_by = run(recipe, words, out)
    if stopped_by:
        raise typer.Exit(128 + stopped_by)


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
