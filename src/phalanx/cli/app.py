"""The program: its groups of verbs and what it is."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

import phalanx
from phalanx.cli.help import Verbs
from phalanx.errors import InputError

if TYPE_CHECKING:
    from phalanx.run.import_record import ModelSource

CONTINUES, ANEW = "the same command does what is left", "the same command starts anew"

HEADINGS = {
    "Begin": ("quickstart",),
    "Make data": ("tokenizer", "prepare", "data", "curate"),
    "Train": ("train", "tune", "check", "launch", "report"),
    "Use and judge a model": ("generate", "fill", "answer", "classify", "embed", "serve", "eval"),
    "Bring models in and take them out": ("models", "import", "export"),
    "Plan and measure": ("plan", "trace", "scale", "calibrate", "bench"),
}


class Program(Verbs):
    """The verbs of the program, under what they are for."""

    headings = HEADINGS


app = typer.Typer(
    name="phalanx", cls=Program, no_args_is_help=True, add_completion=False, rich_markup_mode=None,
    pretty_exceptions_enable=False,
)  # fmt: skip


def _version(asked: bool) -> None:
    """Say what a report of a defect should begin with, and end."""
    from importlib.metadata import version
    from platform import python_version

    if asked:
        print(f"phalanx {phalanx.__version__} (torch {version('torch')}, Python {python_version()})")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Say which version this is.")
    ] = False,
) -> None:
    """Phalanx pretrains, evaluates and serves BERT and GPT, from one CPU to thousands of GPUs.

    Start with: phalanx quickstart. Each verb explains itself, with an example: phalanx VERB --help
    """


class _Terminated(KeyboardInterrupt):
    """SIGTERM has come: raised in the main thread, so that files that are being written are put away."""


@contextmanager
def interruptible(then: str, sigterm: bool = False, saved: Callable[[], str] | None = None) -> Iterator[None]:
    """Turn Ctrl-C in the block into one line that says what was saved, as `saved` tells it, and what the same command
    will do, and exit code 130. With `sigterm` the same on that signal, with 143.
    """

    def terminate(*_: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate) if sigterm else None
    try:
        yield
    except KeyboardInterrupt as stop:
        left = f"{saved()}; " if saved else ""
        code = 143 if isinstance(stop, _Terminated) else 130
        print(f"phalanx: {'terminated' if code == 143 else 'interrupted'}; {left}{then}", file=sys.stderr)
        raise typer.Exit(code) from None
    finally:
        if sigterm:
            signal.signal(signal.SIGTERM, before)


def among_others() -> bool:
    """Return whether this process is one of several that torchrun, srun or a command of ours has started."""
    from phalanx.runtime import process_group, rendezvous

    process_group.adopt_slurm()
    return rendezvous.world() > 1


def source_of(model: str) -> "ModelSource":
    """Return where a model lies. InputError for another program's folder, if several processes would each read it."""
    from phalanx.run.import_record import ModelSource

    source = ModelSource.of(model)
    if source.form and among_others():
        raise InputError(f"{model} is no run folder: phalanx import {model} --out RUN makes one for all processes")
    return source


def numbers(option: str, text: str) -> list[int]:
    """Parse an option's value such as 1,2,4. InputError that names `option` where one is no whole number from 1 on."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise InputError(f"--{option} {text!r} is no list of numbers from 1 on; write 1,2,4")
    return [int(word) for word in words]


def group(name: str, help_text: str) -> typer.Typer:
    """Make a verb with verbs of its own."""
    made = typer.Typer(cls=Verbs, no_args_is_help=True, help=help_text, rich_markup_mode=None)
    app.add_typer(made, name=name)
    return made
