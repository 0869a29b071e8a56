"""Verbs that use and judge what was trained."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phalanx.cli.app import ANEW, app, interruptible, source_of
from phalanx.cli.help import TakesWords
from phalanx.errors import InputError

if TYPE_CHECKING:
    from phalanx.infer.sample import Options


def _utf8(text: str) -> str:
    """Return the text. UnicodeError where the shell gave bytes of another encoding."""
    text.encode()
    return text


def _all_utf8(texts: list[str]) -> list[str]:
    return [_utf8(text) for text in texts]


Model = Annotated[
    str, typer.Argument(help="A run folder, hf:FOLDER of Hugging Face's, or hf:org/name of their hub.", metavar="MODEL")
]
Backend = Annotated[
    str, typer.Option(help="torch, native, onnxruntime, openvino, tensorrt, module:Name, or auto: the fastest here.")
]
Precision = Annotated[str, typer.Option(help="fp32, bf16, fp16 (GPU) or int8 (CPU), where the backend has it.")]


@app.command("eval", cls=TakesWords)
def evaluate(
    run: Model,
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Words such as layout.tp=2 or precision.dtype=bf16; fp32 by default.")
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            help="GPT: wikitext, lambada, perplexity (of any text). A tuned BERT: glue or one of its tasks by name, "
            "squad, squad2, race, swag. The run's own kind by default."
        ),
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
    procs: Annotated[int, typer.Option(min=0, help="Processes to start here, as for phalanx train.")] = 0,
) -> None:
    """Judge a trained model: on held-out data, or on a published task: phalanx eval RUN --task wikitext --data FILE

    wikitext: the perplexity per word of the Megatron paper, in overlapping windows, over the original word count.
    lambada: the share of passages whose last word the model finds. Each score is printed with what it means. Any layout
    gives the same: phalanx eval RUN layout.tp=2
    """
    from phalanx.infer import brought
    from phalanx.runtime import launch, rendezvous
    from phalanx.tasks import sources
    from phalanx.tasks.distributed_model import processes_of_layout
    from phalanx.tasks.score import score

    source_of(run)
    words = overrides or []
    with interruptible(ANEW), brought(run) as folder:
        arguments = [str(folder) if word == run else word for word in sys.argv[1:]]
        code = launch.in_processes(lambda: procs or processes_of_layout(folder, words), arguments=arguments)
        if code is not None:
            raise typer.Exit(code)
        first = rendezvous.rank() == 0
        with _progress(first) as progress:
            part = sources.TEST if test else sources.VALID
            scores = score(folder, task, data, limit, part, stride, not latest, words, progress)

    if not first:
        return
    print(*scores.lines(), sep="\n", flush=True)
    if predictions:
        scores.write(predictions)


@contextmanager
def _progress(shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Show a bar, which moves when it is called with how much is done and how much there is."""
    from rich.progress import Progress as Bar

    with Bar(transient=True, disable=not shown) as bar:
        job = bar.add_task("evaluating")
        yield lambda done, total: bar.update(job, completed=done, total=total)


@app.command()
def generate(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="Text to continue, or @FILE of it.", callback=_utf8)],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="layout.tp=2, for a model too large for one device.")
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "--tokens", help="Tokens to write, at most.")] = 100,
    temperature: Annotated[
        float, typer.Option(help="Below 1 is safer, above 1 wilder; 0 always takes the likeliest token.")
    ] = 0.8,
    top_k: Annotated[int, typer.Option(help="Choose among the k likeliest tokens; 0 among all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Choose among the likeliest tokens of this total probability.")] = 0.95,
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="The same seed writes the same text.")] = 0,
    greedy: Annotated[bool, typer.Option("--greedy", help="The same as --temperature 0.")] = False,
    backend: Annotated[
        str, typer.Option(help="torch, native, module:Name, or auto: kernels of our own where they can be had.")
    ] = "auto",
    precision: Precision = "fp32",
) -> None:
    """Continue a text with a GPT, as it is written: phalanx generate runs/gpt "It was a dark" """
    from phalanx.infer import load_decoder
    from phalanx.infer.sample import Options

    options = Options(max_tokens, 0 if greedy else temperature, top_k, top_p, seed)
    if overrides:
        if not all("=" in word for word in overrides):
            raise InputError(f'a prompt of several words stands in quotes: "{" ".join([prompt, *overrides])}"')
        if backend not in ("auto", "torch"):
            raise InputError(f"backend={backend}: a model on a layout is computed by torch; leave --backend out")
        if precision != "fp32":
            raise InputError(f"--precision {precision} is not for a layout; say precision.dtype=bf16 or fp16 there")
        _generate_together(Path(model), _whole(prompt), options, overrides)
        return
    prompt = _whole(prompt)
    _show(prompt, load_decoder(model, backend, precision).generate(prompt, options))


def _show(prompt: str, stream: Iterable[str]) -> None:
    print(prompt, end="", flush=True)
    for piece in stream:
        print(piece, end="", flush=True)
    print()


def _generate_together(run: Path, prompt: str, options: Options, overrides: list[str]) -> None:
    """Generate on the processes of a layout; the first one writes."""
    from phalanx.runtime import launch, rendezvous
    from phalanx.tasks.distributed_generate import distributed_generator
    from phalanx.tasks.distributed_model import processes_of_layout

    code = launch.in_processes(lambda: processes_of_layout(run, overrides))
    if code is not None:
        raise typer.Exit(code)
    with distributed_generator(run, overrides) as gpt:
        stream = gpt.generate(prompt, options)
        if rendezvous.rank() == 0:
            _show(prompt, stream)
        else:
            deque(stream, 0)


@app.command()
def fill(
    model: Model,
    text: Annotated[str, typer.Argument(help="Text with [MASK] or <mask> in it, or @FILE of it.", callback=_utf8)],
    top: Annotated[int, typer.Option(help="Candidates for each mask.")] = 5,
    backend: Backend = "torch",
    precision: Precision = "fp32",
) -> None:
    """Fill the masks of a text with a BERT: phalanx fill runs/bert "the [MASK] sat on the mat" """
    from phalanx.infer import load_encoder

    encoder = load_encoder(model, backend, precision)
    for position, words in encoder.fill(_whole(text), top):
        print(f"{encoder.mask} at token {position}: " + ", ".join(f"{word} {chance:.1%}" for word, chance in words))


@app.command()
def answer(
    model: Model,
    question: Annotated[str, typer.Argument(help="The question.", callback=_utf8)],
    context: Annotated[str, typer.Argument(help="The text with the answer, or @FILE of it.", callback=_utf8)],
    backend: Backend = "torch",
    precision: Precision = "fp32",
) -> None:
    """Answer a question about a text, with a BERT tuned for it: phalanx answer runs/squad "Who came?" @story.txt"""
    from phalanx.infer import load_encoder

    context = _whole(context)
    span = load_encoder(model, backend, precision).answer(question, context)
    print(f"{span.text}  (characters {span.start} to {span.stop})" if span.text else "no answer in this text")


@app.command()
def classify(
    model: Model,
    text: Annotated[str, typer.Argument(help="The text, or @FILE of it.", callback=_utf8)],
    pair: Annotated[str, typer.Argument(help="A second one, of a model tuned for pairs.", callback=_utf8)] = "",
    backend: Backend = "torch",
    precision: Precision = "fp32",
) -> None:
    """Say what class, or number, a text has, with a BERT tuned for it: phalanx classify runs/sst2 "a fine film" """
    from phalanx.infer import load_encoder

    asked = (_whole(text), _whole(pair)) if pair else _whole(text)
    loaded = load_encoder(model, backend, precision)
    (prediction,) = loaded.predict([asked])
    assert loaded.head is not None  # or it would have been refused
    print(*loaded.head.lines(prediction), sep="\n")


@app.command()
def embed(
    model: Model,
    texts: Annotated[list[str], typer.Argument(help="Texts, or @FILE with one a line.", callback=_all_utf8)],
    out: Annotated[Path, typer.Option(help="A .npy file: float32 [texts, hidden], each of length 1.")],
    backend: Backend = "torch",
    precision: Precision = "fp32",
) -> None:
    """Turn texts into vectors with a BERT: phalanx embed runs/bert @sentences.txt --out vectors.npy"""
    import io

    import numpy as np

    from phalanx import durable
    from phalanx.infer import load_encoder

    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"--out {out}: {'is a folder' if out.is_dir() else 'its folder is not there'}; name a file")

    lines = [line for text in texts for line in _lines(text)]
    if not lines:
        raise InputError(f"{' '.join(texts)}: no texts; give some, or @FILE with one a line")

    vectors, packed = load_encoder(model, backend, precision).embed(lines), io.BytesIO()
    np.save(packed, vectors, allow_pickle=False)
    durable.write(out, packed.getvalue())
    print(f"{out}: {len(vectors)} vectors of {vectors.shape[1]}")


def _lines(text: str) -> list[str]:
    """Return a text alone, or the lines of @FILE that are not blank."""
    if not text.startswith("@"):
        return [text]
    return [line for line in _read(text).split("\n") if line.strip()]


def _whole(text: str) -> str:
    """Return a text, or that of @FILE without the newline at its end."""
    return _read(text).removesuffix("\n") if text.startswith("@") else text


def _read(text: str) -> str:
    """Return the content of @FILE. InputError where it cannot be read."""
    if text == "@":
        raise InputError("@ names no file; write @FILE, without a space")
    try:
        return Path(text[1:]).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{text}: {error.strerror}; a text that begins with @ names its file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{text} is not UTF-8 at byte {error.start}") from error


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", metavar="RUN...")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The HTML page, with a PNG beside it; by default RUN/report.html, of several runs report.html here."
        ),
    ] = None,
) -> None:
    """Draw the curves of one or several runs: phalanx report runs/a runs/b"""
    from phalanx.report import report as draw

    out = out or (runs[0] / "report.html" if len(runs) == 1 else Path("report.html"))
    draw(runs, out, out.with_suffix(".png"))
    print(f"{out} and {out.with_suffix('.png')}")


@app.command()
def quickstart(
    folder: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("quickstart"),
) -> None:
    """Train a GPT and a BERT on bundled novels in a few minutes: phalanx quickstart

    From the tokenizer to a report, each step explained. The same command goes on where it was interrupted.
    """
    from phalanx.quickstart.steps import quickstart as run

    run(folder)
