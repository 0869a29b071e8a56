"""Verbs that bring models in from other programs, and take them there."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from phalanx.cli.app import app
from phalanx.errors import InputError


@app.command("import")
def bring_in(
    source: Annotated[str, typer.Argument(help="hf:FOLDER, a folder of Hugging Face's GPT-2 or BERT.")],
    out: Annotated[Path, typer.Option(help="The run folder to make.")],
    seed: Annotated[int, typer.Option(min=0, help="Of heads that the folder has not.")] = 0,
) -> None:
    """Make a run of another program's model: phalanx import hf:gpt2 --out runs/gpt2

    The weights become its checkpoint of step 0: phalanx generate, fill and eval use it, and phalanx train with
    train.init=RUN goes on from it. What does not fit is refused or named, never dropped.
    """
    from phalanx.convert.huggingface import import_folder

    form, colon, folder = source.partition(":")
    if not colon or form != "hf":
        raise InputError(f"{source}: say what it is, as hf:{source.removeprefix('hf:')}")
    print(*import_folder(Path(folder), out, seed).lines(), sep="\n")


@app.command("export")
def take_out(
    run: Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")],
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    to: Annotated[Literal["hf"], typer.Option(help="hf: a folder for transformers' from_pretrained.")] = "hf",
    latest: Annotated[bool, typer.Option("--latest", help="The newest checkpoint rather than the best.")] = False,
) -> None:
    """Write a run's model for another program: phalanx export runs/gpt --to hf gpt-folder"""
    from phalanx.convert.huggingface import export_run

    print(f"{folder}: {export_run(run, folder, best=not latest)} tensors")
