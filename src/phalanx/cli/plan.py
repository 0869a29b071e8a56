"""Verbs that predict before a run: which layout, how fast, how much memory, which messages."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from phalanx.cli.app import app
from phalanx.cli.help import TakesWords, Verbs
from phalanx.errors import InputError

MOST = 1_000_000  # GPUs: the search would take minutes beyond it


class _Layouts(Verbs):
    """`phalanx plan MODEL` is `phalanx plan layouts MODEL`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse with the verb that is meant where none is named."""
        named = args and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named or not args else ["layouts", *args])


plan_app = typer.Typer(
    cls=_Layouts,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Rank a model's layouts on a cluster: phalanx plan gpt2-8.3b --gpus 512, short for phalanx plan layouts …",
)
app.add_typer(plan_app, name="plan")


@plan_app.command(cls=TakesWords)
def layouts(
    model: Annotated[str, typer.Argument(help="A recipe's name, a TOML file, or a run folder.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="section.key=value words over the recipe; layout.* words are kept, not searched."),
    ] = None,
    cluster: Annotated[
        str,
        typer.Option(help="h100-eos, h200, selene (A100), dgx2h-superpod (V100), t4, laptop, …, or a .toml file."),
    ] = "h100-eos",
    gpus: Annotated[int, typer.Option(help="How many of its GPUs.")] = 8,
    batch: Annotated[
        int | None, typer.Option(help="Sequences of a step: train.batch; the recipe's by default.")
    ] = None,
    precision: Annotated[str, typer.Option(help="precision.dtype: bf16, fp16, fp8 or fp32.")] = "",
    tokens: Annotated[str, typer.Option(help="Tokens to train on, as 300B; the recipe's steps by default.")] = "",
    price: Annotated[
        float, typer.Option(min=0, max=1e9, help="Dollars of a GPU for an hour; the cluster's by default.")
    ] = 0,
    top: Annotated[int, typer.Option(min=1, max=1000, help="Rows.")] = 10,
    why: Annotated[
        str, typer.Option(help='Why a layout is not the best: --why "tp8 pp2", as the table names them.')
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Rank all layouts of a model on a cluster's GPUs by predicted step time.

    Every tensor, sequence, context, pipeline and data parallel size, schedule, sharding, micro-batch and recompute that
    divides and fits, with the memory of the fullest GPU by kind and the command that runs it. In a name, tp4 pp2×6 dp64
    mb4 zero2 block: 4-way tensor parallel with sequence parallel ("wide" says without), 2 pipeline ranks with 6 stages
    each, 64 replicas, micro-batches of 4, sharded as ZeRO-2, blocks computed again
    ("attn": attention alone).
    """
    from phalanx.plan import cluster as clusters
    from phalanx.plan import proposal, render
    from phalanx.units import parse_count

    if not 1 <= gpus <= MOST:
        raise InputError(f"--gpus {gpus}: give 1 to {MOST:,}")

    words = [*(overrides or ())]
    words += [f"train.batch={batch}"] * (batch is not None) + [f"precision.dtype={precision}"] * bool(precision)
    where, many = clusters.load(cluster), parse_count(tokens, "--tokens") if tokens else 0.0
    asked = proposal.Question(model, tuple(words), cluster, where, gpus, many, price or where.hour)

    if why:
        print(*render.why(asked, why), sep="\n")
        return
    answer = proposal.answer(asked, top)
    print(json.dumps(render.document(asked, answer), indent=1) if as_json else "\n".join(render.table(asked, answer)))


@plan_app.command("table")
def published_table(
    source: Annotated[str, typer.Option(help="Only this source's rows, as nv2019 or sc21-t1.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Show what others have published beside what this planner predicts, with the error of every row.

    A few constants of each generation of GPUs are fitted on the rows that say so; all others are held back.
    """
    from dataclasses import asdict

    from phalanx.plan import comparison

    if as_json:
        lines = [line for line in comparison.table() if source in ("", line.source)]
        print(json.dumps([asdict(line) | {"error": line.error} for line in lines], indent=1))
        return
    print(*comparison.text(source), sep="\n")


@plan_app.command()
def curve(
    out: Annotated[Path, typer.Option(help="The PNG to write.")] = Path("scaling.png"),
    measured: Annotated[
        Path | None, typer.Option(help="Measurements to draw over it: what phalanx scale --json wrote.")
    ] = None,
) -> None:
    """Draw the scaling of GPT-2 1.2B to 8.3B and BERT-Large's time to train, predicted and published."""
    from phalanx.plan import curve as points
    from phalanx.report.scaling import draw

    curves = points.curves(measured)
    print(*points.text(curves), sep="\n")
    weak = {"tensor parallel": curves.tensor, "with 64 replicas": curves.both}
    draw(weak, points.BASELINE, curves.times, curves.published_times, curves.measured, out)
    print(f"\n{out}")


@app.command(cls=TakesWords)
def trace(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, a TOML file, or a run folder.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value words over the recipe.")] = None,
    ranks: Annotated[int, typer.Option(min=0, help="Processes to pretend; 0: as many as the layout names.")] = 0,
    rank: Annotated[int, typer.Option(min=0, help="Which of them to trace.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A PNG of the memory over the step, by kind.")] = None,
    export: Annotated[Path | None, typer.Option(help="A Chrome trace of the step, for ui.perfetto.dev.")] = None,
    cluster: Annotated[
        str, typer.Option(help="Whose GPUs say what precision.dtype=auto is, and how long --export's operations take.")
    ] = "h100-eos",
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Dry-run one step of one rank of thousands: phalanx trace gpt2-8.3b layout.tp=8 --ranks 512 --out memory.png

    The real model is built and laid out by the real code, on tensors without memory in a process group that only
    pretends, and takes a step: peak memory by kind, FLOPs, every collective with its group, and parameters, beside
    what the planner's closed forms say.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from phalanx.plan import cluster as clusters
    from phalanx.plan.chrome_trace import Clock, write
    from phalanx.plan.trace import passes
    from phalanx.plan.trace import trace as traced_step
    from phalanx.plan.trace_report import TraceReport
    from phalanx.run.folder import load_config
    from phalanx.train.layouts import processes_of
    from phalanx.train.resolve import Target, resolve

    where = clusters.load(cluster)
    config = resolve(load_config(recipe, overrides or ()), Target(ranks, precision=where.precision))
    processes = processes_of(config.layout)
    if rank >= processes:
        raise InputError(f"--rank {rank} of {processes} ranks; use 0 to {processes - 1}")

    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, transient=True, disable=not sys.stderr.isatty(), console=Console(stderr=True)) as bar:
        job = bar.add_task("tracing", total=passes(config, processes, rank))
        done = traced_step(config, processes, rank, record=export is not None, progress=lambda: bar.advance(job))

    report = TraceReport(config, done)
    print(json.dumps(report.document(), indent=1) if as_json else "\n".join(report.lines()))
    if out:
        from phalanx.plan.memory_profiler import KINDS
        from phalanx.report.memory import draw

        draw(done.timeline, KINDS, f"{Path(recipe).name}, {processes} ranks, rank {rank}: memory of a step", out)
    if export:
        seconds = write(done, Clock(where, config.layout, config.precision.dtype), export)
        print(f"{export}: a step of {seconds:.4g} s on {where.title}, uncompiled", file=sys.stderr)
