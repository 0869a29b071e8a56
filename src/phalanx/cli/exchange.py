"""Verbs that bring models in from other programs, and take them there."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from phalanx.cli.app import ANEW, app, interruptible
from phalanx.errors import InputError


@app.command("import")
def bring_in(
    source: Annotated[
        str,
        typer.Argument(
            help="hf:FOLDER, or hf:org/name[@revision] of the hub (GPT-2, BERT, RoBERTa, DistilBERT, Llama, Mistral, "
            "Qwen 2 and 3, OLMo 2 and 3, Gemma 3, SmolLM 2 and 3); gguf:FILE of llama.cpp (the decoders of these); or "
            "megatron:FOLDER (GPT-2, BERT)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The run folder to make.")],
    tokenizer: Annotated[
        str, typer.Option(help="megatron: gpt2, bert-uncased, … or a tokenizer.json; its checkpoints have none.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of heads that the folder has not.")] = 0,
    family: Annotated[
        str, typer.Option(metavar="MODULE:NAME", help="hf: a family of yours, whose kind of model the folder holds.")
    ] = "",
    head: Annotated[
        str, typer.Option(metavar="MODULE:NAME", help="hf: a head of yours, which the fine-tuned model has.")
    ] = "",
) -> None:
    """Make a run of another program's model: phalanx import hf:openai-community/gpt2 --out runs/gpt2

    The weights become its checkpoint of step 0: phalanx generate, fill and eval use it, and phalanx train --from RUN
    goes on from it. What does not fit is refused or named, never dropped. What is no folder here is downloaded from the
    Hugging Face hub, once; phalanx models show hf:org/name says before what it is. gguf: is for files of llama.cpp and
    its kin, quantised or not; megatron: is for those of Megatron-LM, of any tensor-parallel size and any version.
    """
    from phalanx.run.import_record import ModelSource

    model = ModelSource.of(source)
    form = model.form
    if not form:
        raise InputError(f"{source}: say what it is, as hf:FOLDER, gguf:FILE or megatron:FOLDER")
    if family and form == "megatron":
        raise InputError(f"--family {family} is for hf: folders; Megatron's checkpoints are of GPT-2 and BERT")
    if head and form == "megatron":
        raise InputError(f"--head {head} is for hf: folders; Megatron's checkpoints have the heads of pretraining")
    with interruptible(ANEW):
        if form == "megatron":
            from phalanx.convert import megatron

            if not tokenizer:
                raise InputError("a Megatron checkpoint has no tokenizer; name its own: --tokenizer gpt2, or a file")
            imported = megatron.import_folder(model.folder, tokenizer, out, seed)
        else:
            from phalanx.convert.sources import import_source

            imported = import_source(model, out, seed, family, head)
    print(*imported.lines(), sep="\n")


@app.command("export")
def take_out(
    model: Annotated[str, typer.Argument(help="A run folder, or hf:FOLDER, hf:org/name or gguf:FILE.", metavar="RUN")],
    folder: Annotated[Path, typer.Argument(help="The folder to make, or the file.")],
    to: Annotated[
        Literal["hf", "gguf", "megatron", "onnx"],
        typer.Option(
            help="hf: for transformers' from_pretrained; gguf: a file for llama.cpp and its kin; megatron: for "
            "Megatron-LM; onnx: a graph in a file."
        ),
    ] = "hf",
    numbers: Annotated[
        Literal["f16", "f32", "bf16", "q8_0"],
        typer.Option("--type", help="gguf: the type of its matrices' numbers."),
    ] = "f16",
    tp: Annotated[int, typer.Option(min=1, help="megatron: tensor-parallel ranks, a file for each.")] = 1,
    latest: Annotated[bool, typer.Option("--latest", help="The newest checkpoint rather than the best.")] = False,
) -> None:
    """Write a run's model for another program: phalanx export runs/gpt --to hf gpt-folder"""
    from phalanx.infer import brought

    with interruptible(ANEW), brought(model) as run:
        if to == "megatron":
            from phalanx.convert import megatron

            print(f"{folder}: {megatron.export_run(run, folder, tp, best=not latest)} ranks")
        elif to == "gguf":
            from phalanx.convert.sources import gguf

            print(f"{folder}: {gguf().export_run(run, folder, numbers, best=not latest)} tensors")
        elif to == "onnx":
            from phalanx.infer import export

            print(f"{folder}: gives {', '.join(export.export_run(run, folder, best=not latest))}")
        else:
            from phalanx.convert import huggingface

            print(f"{folder}: {huggingface.export_run(run, folder, best=not latest)} tensors")
