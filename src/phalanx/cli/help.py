"""The text of `--help`, and the errors for options that do not exist or whose values will not do.

Typer's plain help cuts each verb's sentence short and knows no keys of a configuration, so both are written here.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError
from typer.core import TyperCommand, TyperGroup

from phalanx.errors import InputError

PRETRAINING = (
    "data.train", "data.sequence", "model.preset", "train.steps", "train.batch", "train.eval_every", "train.seed",
    "optim.lr", "optim.warmup", "layout.micro_batch", "precision.dtype", "save.every",
)  # fmt: skip
FINE_TUNING = (
    "data.sequence", "examples.metric", "examples.stride", "train.batch", "train.eval_every", "train.patience",
    "train.seed", "optim.lr", "optim.warmup", "layout.micro_batch", "precision.dtype", "save.keep",
)  # fmt: skip

ROOM = 56  # characters beside a recipe's name, in a terminal of 80

INSTEAD = {
    "resume": "a run continues when the same command is given again",
    "output_dir": "the run folder is --out",
    "gpus": "processes are --procs, or as many as layout.tp, cp, pp and dp multiply to",
}


class Verbs(TyperGroup):
    """A group whose help tells each verb's sentence whole, under headings where `headings` names them."""

    headings: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def invoke(self, ctx: Any) -> Any:
        """Run the verb that is asked for. InputError, one line that says what would do, for an option whose value will
        not do.
        """
        try:
            return super().invoke(ctx)
        except Exception as error:  # its class is Click's own or, in newer Typers, a copy of it
            if type(error).__name__ != "BadParameter":
                raise
            raise InputError(_would_do(error)) from None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a list of verbs for each heading."""
        for heading, verbs in (self.headings or {"Commands": tuple(self.commands)}).items():
            with formatter.section(heading):
                formatter.write_dl([(verb, _sentence(self.commands[verb].help or "")) for verb in verbs])


class TakesWords(TyperCommand):
    """A command with `section.key=value` words: an unknown option that is the name of a key is shown as such a word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as Typer does; InputError with the word to write in place of a mistaken option."""
        given = [*args]
        try:
            return super().parse_args(ctx, args)
        except Exception as error:  # its class is Click's own or, in newer Typers, a copy of it
            if type(error).__name__ != "NoSuchOption":
                raise
            option = str(getattr(error, "option_name", ""))
            if hint := _word_for(option, given, [name for param in self.params for name in param.opts]):
                raise InputError(f"{option} is no option of {ctx.command_path}; {hint}") from None
            raise


class Trains(TakesWords):
    """A command whose help ends with the recipes and with the keys that matter most, and with those of a family or an
    optimizer that a word `model.family=NAME` or `optim.name=NAME` beside `--help` names; with `--all`, with every key.
    """

    recipes, keys = True, PRETRAINING

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as Typer does; `--all`, with `--help` or alone, asks for the help with every key."""
        ctx.meta[__name__] = "--all" in args, [arg for arg in args if arg.startswith(("model.family=", "optim.name="))]
        return super().parse_args(ctx, ["--help"] if "--all" in args else args)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write recipes and keys, which are read only when somebody asks."""
        from phalanx import recipe
        from phalanx.keys import help_text, keys_of
        from phalanx.owners import owners_of

        everything, words = ctx.meta[__name__]
        owners = owners_of({}, words) if words else None
        kept: list[str] = [] if everything else [*self.keys]
        which, named = "All keys" if everything else "Keys that matter most", " ".join(words)
        if kept and owners:
            kept += keys_of(owners, [word.partition(".")[0] for word in words])
            which = f"{which} and all of {named}"

        formatter.write(f"\n{which}, as section.key=value, with their defaults (recipes and tasks have others):\n")
        formatter.write(f"{help_text(kept, owners)}\n")
        if not everything:
            formatter.write(f"\n  The others: {ctx.command_path} --help --all{f' {named}' if named else ''}\n")
        if self.recipes:
            with formatter.section("Recipes"):
                formatter.write_dl([(name, _brief(text)) for name, text in recipe.names().items()])


class Tunes(Trains):
    """A command of fine-tuning: its --help shows the keys of the recipe that its task has."""

    recipes, keys = False, FINE_TUNING


def _would_do(error: Any) -> str:
    """Return what is wrong with an option's value, and what would do; a BadParameter's cause is pydantic's error."""
    option, cause = error.param.opts[0] if error.param else error.param_hint, error.__cause__
    if not isinstance(cause, ValidationError):
        return f"{option}: {error.message}"
    wrong = cause.errors()[0]
    bounds = wrong.get("ctx", {})
    wanted = {
        "int_parsing": "a whole number", "int_from_float": "a whole number", "float_parsing": "a number",
        "bool_parsing": "true or false", "greater_than_equal": f"{bounds.get('ge', 0):,.9g} or more",
        "less_than_equal": f"{bounds.get('le', 0):,.9g} at most",
    }  # fmt: skip

    remedy = f"give {wanted[wrong['type']]}" if wrong["type"] in wanted else wrong["msg"]
    return f"{option} {wrong['input']}: {remedy}"


def _brief(text: str) -> str:
    """Return the first clause of a recipe's description, or what of it fits beside a name."""
    brief = re.split("[:;] ", text)[0].rstrip(".")
    return brief if len(brief) <= ROOM else re.split(r", | \(", brief)[0]


def _sentence(text: str) -> str:
    """Return the first sentence of a help text, without the example after its colon."""
    return text.strip().partition("\n")[0].partition(": phalanx ")[0].rstrip(".") + "."


def _word_for(option: str, args: Sequence[str], options: Sequence[str]) -> str:
    """Return the word to write instead of a missing option; nothing where it is more like one of `options`."""
    from phalanx.keys import all_keys, meant_by

    name = option.lstrip("-").replace("-", "_")
    if name in INSTEAD:
        return INSTEAD[name]
    keys = meant_by(name)
    if not keys and not difflib.get_close_matches(option, options, 1, 0.8):
        leaves = [key.rpartition(".")[2] for key in all_keys()]
        keys = [key for leaf in difflib.get_close_matches(name, leaves, 1, 0.8) for key in meant_by(leaf)]
    if not keys:
        return ""

    value = _value_of(option, args)
    return "settings are words without dashes: " + " or ".join(key if "=" in key else f"{key}={value}" for key in keys)


def _value_of(option: str, args: Sequence[str]) -> str:
    """Return the value given to `option`, after an equals sign or as the next argument; dots where there is none."""
    for word, after in zip(args, [*args[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name == option:
            value = value if equals else after
            return "…" if not value or value.startswith("-") or ("=" in value and not equals) else value
    return "…"
