"""Verbs that say which models there are, and what one is made of."""

import json
from typing import Annotated, Any

import typer

from phalanx.cli.app import app
from phalanx.cli.help import Verbs

models_app = typer.Typer(cls=Verbs, invoke_without_command=True, rich_markup_mode=None)
app.add_typer(models_app, name="models")

Json = Annotated[bool, typer.Option("--json", help="For programs: JSON.")]


@models_app.callback()
def models(context: typer.Context, as_json: Json = False) -> None:
    """List the models that have names, or show what one is made of."""
    if context.invoked_subcommand:
        return
    from phalanx.models.presets import model_types, presets, table
    from phalanx.spec.outline import sizes

    specs = presets()
    if as_json:
        _print_json([{"preset": name, **sizes(spec)} for name, spec in specs.items()])
        return
    print(*table(specs), sep="\n")
    print(f"\nphalanx models show NAME draws one. Folders come in whose model_type is {', '.join(model_types())}.")


@models_app.command()
def show(
    model: Annotated[
        str,
        typer.Argument(help="A run, hf:FOLDER, hf:org/name, gguf:FILE, or a preset as llama/3-8b.", metavar="MODEL"),
    ],
    as_json: Json = False,
) -> None:
    """Show what a model is made of, what it costs and what can be done with it: phalanx models show llama/3-8b

    Of hf:org/name only the small files are downloaded. A folder that cannot be taken is told in one line, with the key
    of its config.json that asks for what is not there.
    """
    from phalanx.infer.card import card_of, facts, lines

    card = card_of(model)
    if as_json:
        _print_json(facts(card))
        return
    print(*lines(card), sep="\n")


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2))
