"""Verbs that measure the machine underfoot: how it scales, and what the planner should know of it."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from phalanx.cli.app import app, numbers
from phalanx.cli.help import TakesWords
from phalanx.errors import InputError


@app.command(cls=TakesWords)
def scale(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, a TOML file, or a run folder.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value words over the recipe.")] = None,
    procs: Annotated[str, typer.Option(help="Numbers of processes.")] = "1,2,4",
    parallel: Annotated[Literal["dp", "tp", "pp", "cp"], typer.Option(help="How they share the work.")] = "dp",
    kind: Annotated[
        Literal["weak", "strong"], typer.Option(help="weak: the work grows with the processes; strong: it stays.")
    ] = "weak",
    steps: Annotated[int, typer.Option(min=1, help="Steps of each that count; the median is taken.")] = 7,
    out: Annotated[Path | None, typer.Option(help="A PNG of compute performance and efficiency.")] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="A file for machines, which phalanx plan curve --measured draws.")
    ] = None,
) -> None:
    """Measure how training scales here: phalanx scale gpt2-124m train.batch=4 --procs 1,2,4 --parallel tp

    The real trainer on random tokens: a process a GPU, or of one thread on a core of its own. Weak scaling lets the
    batch (dp), the sequence (cp), the layers (pp) or the width (tp) grow with the processes. Groups take turns step by
    step, so that a machine whose speed drifts slows all alike. Efficiency is model FLOP/s of a process against one
    process alone.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from phalanx import durable
    from phalanx.measure import scale as measured
    from phalanx.report.scaling import draw_measured

    counts = numbers("procs", procs)
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, transient=True, disable=not sys.stderr.isatty(), console=Console(stderr=True)) as bar:
        job = bar.add_task("measuring", total=measured.turns(counts, steps))
        results = measured.scale(recipe, overrides or (), parallel, kind, counts, steps, lambda: bar.advance(job))

    print(*measured.table(results), sep="\n")
    if json_out:
        durable.write(json_out, json.dumps(measured.records(results), indent=1).encode())
    if out:
        draw_measured(results, f"{Path(recipe).name}, {kind}, {parallel}", out)


@app.command()
def calibrate(
    out: Annotated[Path, typer.Option(help="The cluster file to write; its plots beside it, as .png.")] = Path(
        "here.toml"
    ),
    procs: Annotated[
        str, typer.Option(help="Sizes of groups to measure collectives in; all that fit by default.")
    ] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Times that everything is measured; medians are taken.")] = 5,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Measure this machine for the planner: phalanx calibrate --out here.toml, then phalanx plan … --cluster here.toml

    Products by size and precision, memory, the kernels of a training step, collectives by size and group, and how much
    slower a process is beside busy neighbours: on the GPUs, or the cores as processes of one thread.
    """

    import torch
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from phalanx import durable, processor
    from phalanx.measure.calibrate import Calibration
    from phalanx.measure.clusterfile import text
    from phalanx.report.machine import draw

    if out.suffix != ".toml":
        raise InputError(f"--out {out}: a cluster file's name ends in .toml")
    if out.exists() and not overwrite:
        raise InputError(f"{out} is there already; give --overwrite, or another --out")

    device = "cuda" if torch.cuda.is_available() else "cpu"
    available = torch.cuda.device_count() if device == "cuda" else processor.cpus()
    counts = numbers("procs", procs) if procs else [n for n in (1, 2, 4, 8, 16) if n <= available]
    if max(counts) > available:
        raise InputError(f"--procs {procs}: there are {available} {'GPUs' if device == 'cuda' else 'cores'} here")
    machine = Calibration(device, counts, available)

    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with (
        Progress(*columns, transient=True, disable=not sys.stderr.isatty(), console=Console(stderr=True)) as bar,
        machine.running(),
    ):
        job = bar.add_task("measuring", total=rounds * len(machine.names))
        for name in machine.names * rounds:
            machine.turn(name)
            bar.advance(job)
        cluster = machine.cluster()

    durable.write(out, text(cluster, f"phalanx calibrate --rounds {rounds}").encode())
    assert cluster.measured
    busy = {count: (slow.products, slow.others) for count, slow in cluster.measured.busy.items()}
    draw(cluster.measured.products, machine.sums(), {1: (1.0, 1.0), **busy}, cluster.title, out.with_suffix(".png"))

    peak = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s {dtype}" for dtype, rate in cluster.gpu.peak.items())
    print(
        f"{cluster.title}: {peak}, {cluster.gpu.bandwidth / 1e9:.1f} GB/s of memory; {out}, {out.with_suffix('.png')}"
    )
