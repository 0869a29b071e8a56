"""The verb that fine-tunes a model."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phalanx.cli.app import among_others, app, source_of
from phalanx.cli.help import Tunes
from phalanx.errors import InputError

if TYPE_CHECKING:
    from phalanx.run.import_record import ModelSource

REFUSED = 2  # the exit code of a command that was given bad input


@app.command(cls=Tunes)
def tune(
    run: Annotated[
        str, typer.Argument(help="A run whose model to fine-tune, hf:FOLDER or hf:org/name.", metavar="RUN")
    ],
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
    from phalanx.tasks.sweep import fit_all, planned
    from phalanx.tasks.tune import TuneRequest

    source = source_of(run)
    out = out or Path(f"{source.name if source.hub else source.folder}-{task.rpartition(':')[2]}")
    if (sweep or seeds > 1) and among_others():
        raise InputError("a sweep starts its processes itself: run phalanx tune once, with --procs")

    request = TuneRequest(run, task, data, valid, text, pair, label, epochs)
    runs = planned(request, overrides or [], sweep or [], seeds)
    with _brought(source, out) as model:
        if code := fit_all(runs, model, out, procs):
            raise typer.Exit(code)


@contextmanager
def _brought(source: "ModelSource", out: Path) -> Iterator[str]:
    """Give the run folder of a model; for hf:FOLDER one beside `out`, which is locked as long as the block runs. Where
    the block is refused before a step was done, what was made here is removed again.
    """
    from phalanx.convert.sources import import_source
    from phalanx.run.folder import RunFolder
    from phalanx.run.import_record import ImportRecord

    if not source.form:
        yield str(source)
        return

    model, fresh = RunFolder(out.with_name(f"{out.name}-model")), not out.exists()
    if made := not model.exists:
        print(*import_source(source, model.path).lines(), sep="\n")

    begun, asked = ImportRecord.read(model).source, source.origin
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
    """Remove the runs in `out`, unless another command is at work there. Return whether they are gone."""
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
