"""The verbs. Each imports what it needs when it runs, so that --help answers at once."""

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from phalanx.errors import InputError

app = typer.Typer(
    name="phalanx", no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)
tokenizer_app = typer.Typer(no_args_is_help=True, help="Train and look into tokenizers.", rich_markup_mode=None)
data_app = typer.Typer(no_args_is_help=True, help="Look into prepared data.", rich_markup_mode=None)
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(data_app, name="data")


def _utf8(text: str) -> str:
    """UnicodeError where the shell gave bytes of another encoding."""
    text.encode()
    return text


Run = Annotated[Path, typer.Argument(help="A run folder, as phalanx train makes them.", metavar="RUN")]


class WithKeys(TyperCommand):
    """A command whose help ends with every key of the configuration."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Recipes and keys, read only when somebody asks."""
        from phalanx import recipe

        width = max(map(len, recipe.names()))
        formatter.write("\nRecipes:\n")
        for name, description in recipe.names().items():
            formatter.write(f"  {name:<{width}}  {description}\n")
        formatter.write(f"\nKeys (section.key=value):\n{recipe.help_text()}\n")


@app.callback()
def root() -> None:
    """Phalanx pretrains, evaluates and serves BERT and GPT, from one CPU to thousands of GPUs.

    Start with: phalanx quickstart
    """


@app.command(cls=WithKeys)
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name, a TOML file, or a run folder to continue.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="section.key=value words over the recipe.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; runs/RECIPE by default.")] = None,
    procs: Annotated[
        int, typer.Option(min=0, help="Processes to start here; 0: as many as the layout names, or one a GPU.")
    ] = 0,
    restarts: Annotated[
        int, typer.Option(min=0, help="Times to start again, from the last checkpoint, after a crash.")
    ] = 0,
) -> None:
    """Train a model: phalanx train gpt-tiny data.train=books

    A run that was interrupted continues where it stopped, bit for bit, when the same command is given again, or with:
    phalanx train RUN

    On several devices: phalanx train gpt2-355m data.train=books layout.tp=2 starts the local processes itself; under
    torchrun or srun the same command is one process of many. A run may continue on another layout.
    """
    from phalanx.parallel.launch import launch
    from phalanx.parallel.meeting import world
    from phalanx.parallel.processes import adopt_slurm
    from phalanx.tasks.run import train as run
    from phalanx.tasks.run import wanted

    adopt_slurm()
    if world() == 1 and (count := procs or wanted(recipe, overrides or [], out)) > 1:
        raise typer.Exit(launch(sys.argv[1:], count, restarts))
    stopped_by = run(recipe, overrides or [], out)
    if stopped_by:
        raise typer.Exit(128 + stopped_by)


@app.command()
def prepare(
    inputs: Annotated[list[str], typer.Argument(help="Files, folders or globs: text, .jsonl, .parquet; .gz .zst .xz.")],
    out: Annotated[
        str, typer.Option(help="PREFIX of the files to write: PREFIX.bin, PREFIX.idx, PREFIX.manifest.json.")
    ],
    tokenizer: Annotated[str, typer.Option(help="gpt2, bert-uncased, bert-cased, or a tokenizer.json.")],
    document: Annotated[str, typer.Option(help="What a document is in plain text: file, line or blank-line.")] = "file",
    key: Annotated[str, typer.Option(help="Where a JSONL or Parquet record keeps its text.")] = "text",
    sentences: Annotated[bool, typer.Option("--sentences", help="Split documents into sentences, for BERT.")] = False,
    workers: Annotated[int, typer.Option(help="Processes; 0 takes every core. The output is the same.")] = 0,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first malformed line.")] = False,
    append_eod: Annotated[
        bool | None, typer.Option(help="End each document with the end-of-text token; by default where there is one.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a set that is there.")] = False,
) -> None:
    """Turn text into token files for training: phalanx prepare books/ --out data/books --tokenizer gpt2

    The files are Megatron's .bin/.idx. An interrupted run continues when the same command is given again.
    """
    from phalanx.data.prepare import PrepareOptions
    from phalanx.data.prepare import prepare as run

    run(inputs, out, PrepareOptions(tokenizer, document, key, sentences, workers, strict, append_eod, force))


@tokenizer_app.command("train")
def tokenizer_train(
    inputs: Annotated[list[str], typer.Argument(help="Files, folders or globs, as for phalanx prepare.")],
    out: Annotated[Path, typer.Option(help="The tokenizer.json to write.")],
    vocab: Annotated[int, typer.Option(help="Tokens of the vocabulary.")] = 32768,
    kind: Annotated[
        str, typer.Option(help="bpe (byte-level, for GPT), wordpiece (for BERT, lower case) or wordpiece-cased.")
    ] = "bpe",
    key: Annotated[str, typer.Option(help="Where a JSONL or Parquet record keeps its text.")] = "text",
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
) -> None:
    """Learn a tokenizer from text: phalanx tokenizer train books/ --out books.json --vocab 8192"""
    from phalanx.data.vocabulary import train_tokenizer

    trained = train_tokenizer(inputs, kind, vocab, str(out), key, force)
    print(f"{out}: {trained.vocab} tokens")


@data_app.command("show")
def data_show(
    prefix: Annotated[str, typer.Argument(help="PREFIX of a prepared set.")],
    number: Annotated[int, typer.Argument(help="Which sample.", metavar="I")] = 0,
    task: Annotated[str, typer.Option(help="clm, mlm; by default mlm for a set of sentences.")] = "",
    sequence: Annotated[int, typer.Option(help="Tokens of a sample.")] = 128,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="data.KEY=value, as in a recipe.")] = None,
) -> None:
    """Decode sample I as training would see it, with its masks: phalanx data show data/books 7"""
    from phalanx.tasks.show import show

    print(show(prefix, number, task, sequence, overrides or []))


@app.command("eval")
def evaluate(
    run: Run,
    data: Annotated[str, typer.Option(help="PREFIX of a prepared set; the run's own held-out data by default.")] = "",
    test: Annotated[
        bool, typer.Option("--test", help="The run's own test data rather than its held-out data.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Sequences at most.")] = None,
    latest: Annotated[bool, typer.Option("--latest", help="The newest checkpoint rather than the best.")] = False,
) -> None:
    """Loss, perplexity and bits per byte of a trained model on held-out text."""
    from rich.progress import Progress as Bar

    from phalanx.tasks import sources
    from phalanx.tasks.score import score

    part = sources.TEST if test else sources.VALID
    with Bar(transient=True) as bar:
        job = bar.add_task("evaluating")
        result = score(run, data, limit, part, not latest, lambda n, total: bar.update(job, completed=n, total=total))
    for name, value in result.items():
        print(f"{name:<16} {value:,.0f}" if value.is_integer() else f"{name:<16} {value:.4f}")


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


def main() -> None:
    """The entry point: user errors are one line and exit code 2; PHALANX_TRACEBACK=1 shows where they came from."""
    try:
        app(prog_name="phalanx")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its exit
        sys.exit(141)
    except Exception as error:
        line, together = _said(error), os.environ.get("WORLD_SIZE", "1") != "1"
        code = 2
        if together and not line:
            from phalanx.parallel.meeting import lost

            line, code = lost(error), 1
        if not line or os.environ.get("PHALANX_TRACEBACK"):
            raise
        if not together or _speaks():
            print(f"phalanx: {line}", file=sys.stderr)
        if together:
            time.sleep(2)  # the others ask too, and whoever started them ends them all when the first ends
        sys.exit(code)


def _speaks() -> bool:
    """Whether this process is the one of several to tell of an error."""
    from phalanx.parallel.meeting import speaks

    return speaks()


def _said(error: Exception) -> str:
    """What to tell of an error that is the user's to mend or the machine's; nothing for a defect."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'input or output'}: {error.strerror or error}"
    if isinstance(error, UnicodeError):
        return f"a text is not UTF-8: {error}"
    no_memory = ("out of memory", "can't allocate memory", "size calculation overflowed")
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(s in str(error) for s in no_memory)):
        return "out of memory; a smaller model (model.preset), data.sequence or layout.micro_batch takes less"
    return ""


def _loaded(run: Path) -> Any:
    """A trained model; what was wrong with its checkpoints is said."""
    from phalanx.infer.load import load

    loaded = load(run)
    for note in loaded.restored.notes:
        print(f"phalanx: {note}", file=sys.stderr)
    return loaded
