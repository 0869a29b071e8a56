"""Verbs that measure what was trained."""

import json
from pathlib import Path
from typing import Annotated

import typer

from phalanx.cli.app import group, numbers

bench_app = group("bench", "Measure how fast a model answers, beside Hugging Face.")


@bench_app.command("infer")
def bench_infer(
    model: Annotated[
        str,
        typer.Argument(
            help="A run, hf:FOLDER or hf:org/name, or a recipe as bert-base (random weights).", metavar="MODEL"
        ),
    ],
    batch: Annotated[str, typer.Option(help="Rows of a call.")] = "1,8",
    lengths: Annotated[str, typer.Option(help="Tokens of a row.")] = "128,384",
    backends: Annotated[
        str, typer.Option(help="Of torch, native, onnxruntime, openvino, tensorrt and module:Name.")
    ] = "torch,native,onnxruntime,openvino",
    precision: Annotated[str, typer.Option(help="Of fp32, bf16, fp16, int8.")] = "fp32,bf16,int8",
    rounds: Annotated[int, typer.Option(min=1, help="Calls of each, by turns.")] = 20,
    out: Annotated[Path | None, typer.Option(help="A JSON file of all figures.")] = None,
) -> None:
    """Measure a BERT by batch and length, on every backend and beside Hugging Face: phalanx bench infer bert-base"""
    from rich.progress import Progress as Bar

    from phalanx import durable
    from phalanx.infer import bench

    batches, wanted = numbers("batch", batch), numbers("lengths", lengths)
    bundle = bench.subject(model)
    sizes = sorted({min(length, bundle.context) for length in wanted})
    programs, unavailable = bench.programs(bundle, backends.split(","), precision.split(","))
    print(*unavailable, sep="\n")

    with Bar(transient=True) as bar:
        job = bar.add_task("measuring")

        def progress(n: int, total: int) -> None:
            bar.update(job, completed=n, total=total)

        cells = list(bench.measure(programs, bundle, batches, sizes, rounds, progress))

    print(*bench.table(cells), sep="\n")
    if out:
        durable.write(out, json.dumps([cell._asdict() for cell in cells], indent=1).encode())
