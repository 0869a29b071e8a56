"""The program: its groups of verbs and what it is."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from phalanx.errors import InputError

CONTINUES, ANEW = "the same command does what is left", "the same command starts anew"

app = typer.Typer(
    name="phalanx", no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)


@app.callback()
def root() -> None:
    """Phalanx pretrains, evaluates and serves BERT and GPT, from one CPU to thousands of GPUs.

    Start with: phalanx quickstart
    """


@contextmanager
def interruptible(then: str) -> Iterator[None]:
    """On Ctrl-C one line that says what the same command will do, and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"phalanx: interrupted; {then}", file=sys.stderr)
        raise typer.Exit(130) from None


def numbers(option: str, text: str) -> list[int]:
    """Of an option that takes several, as 1,2,4."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise InputError(f"--{option} {text!r} is no list of numbers from 1 on; write 1,2,4")
    return [int(word) for word in words]


def group(name: str, help_text: str) -> typer.Typer:
    """A verb with verbs of its own."""
    made = typer.Typer(no_args_is_help=True, help=help_text, rich_markup_mode=None)
    app.add_typer(made, name=name)
    return made
