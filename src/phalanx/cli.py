"""The verbs. Each imports what it needs when it runs, so that --help answers at once."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import click
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

Run = Annotated[Path, typer.Argument(help="A run folder, as phalanx train makes them.", metavar="RUN")]


class WithKeys(TyperCommand):
    """A command whose help ends with every key of the configuration."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
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
) -> None:
    """Train a model: phalanx train gpt-tiny data.train=books

    A run that was interrupted continues where it stopped, bit for bit, when the same command is given again, or with:
    phalanx train RUN
    """
    from phalanx.tasks.run import train as run

    stopped_by = run(recipe, overrides or [], out)
    if stopped_by:
        raise typer.Exit(128 + stopped_by)


def main() -> None:
    """The entry point: user errors are one line and exit code 2; PHALANX_TRACEBACK=1 shows where they came from."""
    try:
        app(prog_name="phalanx")
    except InputError as error:
        if os.environ.get("PHALANX_TRACEBACK"):
            raise
        print(f"phalanx: {error}", file=sys.stderr)
        sys.exit(2)
