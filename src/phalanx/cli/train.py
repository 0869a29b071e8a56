"""Verbs that train: by a recipe, and on a layout beside one process."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from phalanx.cli.app import app
from phalanx.cli.help import Trains

if TYPE_CHECKING:
    from phalanx.tasks.decay import Decay


class TrainsOrDecays(Trains):
    """The command `phalanx train`, whose --decay needs no number."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as `Trains` does, with the usual share of a run where no number follows --decay."""
        if "--decay" in args:
            after = args.index("--decay") + 1
            if not args[after:] or not re.fullmatch(r"[-+.\deE]+", args[after]):
                args = [*args[:after], "0.1", *args[after:]]
        return super().parse_args(ctx, args)


_FROM = typer.Option(
    "--from",
    help="A run whose model and weights to begin with, as phalanx import makes them; with --decay a checkpoint's step.",
)
_DECAY = typer.Option(help="Let a run decay: over so many steps, or that share of the whole below 1; alone, 0.1.")


@app.command(cls=TrainsOrDecays)
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, a TOML file, or a run folder to continue.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value words over the recipe.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/RECIPE by default.")] = None,
    init: Annotated[str, _FROM] = "",
    decay: Annotated[float | None, _DECAY] = None,
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

    phalanx train RUN --decay 500 goes on from a checkpoint of RUN, whose rate is stable, in RUN-decay-STEP or --out,
    with a rate that falls over 500 steps; RUN stays as it is.
    """
    from phalanx.run.folder import words_from
    from phalanx.runtime import launch
    from phalanx.tasks.run import processes_here
    from phalanx.tasks.run import train as run

    wanted = None if decay is None else _decay(recipe, decay, init)
    words = [*(words_from(init) if init and not wanted else ()), *(overrides or ())]
    argv = _pinned(wanted, init)
    code = launch.in_processes(lambda: procs or processes_here(recipe, words, None if wanted else out), restarts, argv)
    if code is not None:
        raise typer.Exit(code)
    _tell_what_gave_way(recipe, "" if wanted else init)
    stopped_by = run(recipe, words, out, decay=wanted)
    if stopped_by:
        raise typer.Exit(128 + stopped_by)


def _tell_what_gave_way(recipe: str, init: str) -> None:
    """Print, once for all processes, which keys of a recipe's model gave way to that of the run `init`, if any."""
    from phalanx.run.folder import gave_way
    from phalanx.runtime import rendezvous

    if init and rendezvous.rank() == 0 and (line := gave_way(recipe, init)):
        print(line, flush=True)


def _decay(recipe: str, steps: float, step: str) -> "Decay":
    """Return what --decay and --from ask for, the step of the checkpoint definite."""
    from phalanx.errors import InputError
    from phalanx.tasks.decay import Decay, branch_of

    if step and not step.isdecimal():
        raise InputError(f"--from {step}: with --decay give the step of a checkpoint of {recipe}, as --from 500")
    wanted = Decay(steps, int(step) if step else None)
    return wanted._replace(step=branch_of(recipe, wanted)[0].step)


def _pinned(wanted: "Decay | None", step: str) -> list[str] | None:
    """Return the command with the step of its checkpoint: processes that looked for the newest one at different times
    could find different ones. None where nothing is to be added.
    """
    return [*sys.argv[1:], "--from", str(wanted.step)] if wanted and not step else None


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
