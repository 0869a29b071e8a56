"""Verbs that use and judge what was trained."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from phalanx.cli.app import app


def _utf8(text: str) -> str:
    """UnicodeError where the shell gave bytes of another encoding."""
    text.encode()
    return text


Run = Annotated[Path, typer.Argument(help="A run folder, as phalanx train makes them.", metavar="RUN")]


@app.command("eval")
def evaluate(
    run: Run,
    task: Annotated[
        str, typer.Option(help="wikitext, lambada or perplexity (of --data, a text); the run's own loss by default.")
    ] = "",
    data: Annotated[
        str, typer.Option(help="The task's file, or PREFIX of a prepared set; the run's own held-out data by default.")
    ] = "",
    test: Annotated[
        bool, typer.Option("--test", help="The run's own test data rather than its held-out data.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Examples, windows or sequences at most.")] = None,
    stride: Annotated[int, typer.Option(min=1, help="Tokens that a window of a text adds to those before it.")] = 32,
    predictions: Annotated[Path | None, typer.Option(help="A file for each example's answer, JSON lines.")] = None,
    latest: Annotated[bool, typer.Option("--latest", help="The newest checkpoint rather than the best.")] = False,
) -> None:
    """Judge a trained model: on held-out text, or on a published task: phalanx eval RUN --task wikitext --data FILE

    wikitext: the perplexity per word of the Megatron paper, in overlapping windows, over the original word count.
    lambada: the share of passages whose last word the model finds. perplexity: of any text. Each score is printed with
    what it means.
    """
    from rich.progress import Progress as Bar

    from phalanx.tasks import sources, zeroshot
    from phalanx.tasks.score import score

    part = sources.TEST if test else sources.VALID
    with Bar(transient=True) as bar:
        job = bar.add_task("evaluating")

        def progress(n: int, total: int) -> None:
            bar.update(job, completed=n, total=total)

        if task:
            found = zeroshot.judge(run, task, data, limit, stride, not latest, progress)
        else:
            values = score(run, data, limit, part, not latest, progress)
    if not task:
        for name, value in values.items():
            print(f"{name:<16} {value:,.0f}" if value.is_integer() else f"{name:<16} {value:.4f}")
        return
    print(*found.lines(), sep="\n")
    if predictions:
        found.write(predictions)


@app.command()
def generate(
    run: Run,
    prompt: Annotated[str, typer.Argument(help="Text to continue.", callback=_utf8)],
    tokens: Annotated[int, typer.Option(help="Tokens to write.")] = 100,
    temperature: Annotated[float, typer.Option(help="Below 1 is safer, above 1 wilder.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Choose among the k likeliest tokens; 0 among all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Choose among the likeliest tokens of this total probability.")] = 0.95,
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="The same seed writes the same text.")] = 0,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest token.")] = False,
) -> None:
    """Continue a text with a GPT, as it is written: phalanx generate runs/gpt "It was a dark" """
    from phalanx.infer.generate import Options
    from phalanx.infer.generate import generate as pieces

    stream = pieces(_loaded(run), prompt, Options(tokens, temperature, top_k, top_p, seed, greedy))
    print(prompt, end="", flush=True)
    for piece in stream:
        print(piece, end="", flush=True)
    print()


@app.command()
def fill(
    run: Run,
    text: Annotated[str, typer.Argument(help="Text with [MASK] in it.", callback=_utf8)],
    top: Annotated[int, typer.Option(help="Candidates for each mask.")] = 5,
) -> None:
    """Fill the masks of a text with a BERT: phalanx fill runs/bert "the [MASK] sat on the mat" """
    from phalanx.infer.fill import fill as candidates

    for position, words in candidates(_loaded(run), text, top):
        print(f"[MASK] at token {position}: " + ", ".join(f"{word} {chance:.1%}" for word, chance in words))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", metavar="RUN...")],
    out: Annotated[Path, typer.Option(help="The HTML page; a PNG is written beside it.")] = Path("report.html"),
) -> None:
    """Draw the curves of one or several runs: phalanx report runs/a runs/b"""
    from phalanx.report import report as draw

    draw(runs, out, out.with_suffix(".png"))
    print(f"{out} and {out.with_suffix('.png')}")


@app.command()
def quickstart(
    folder: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("quickstart"),
) -> None:
    """Train a GPT and a BERT on bundled novels, from the tokenizer to a report, in a few minutes."""
    from phalanx.quickstart.steps import quickstart as run

    run(folder)


def _loaded(run: Path) -> Any:
    """A trained model; what was wrong with its checkpoints is said."""
    from phalanx.infer.load import load

    loaded = load(run)
    for note in loaded.restored.notes:
        print(f"phalanx: {note}", file=sys.stderr)
    return loaded
