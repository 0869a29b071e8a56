"""Look-up by name, or by "module:Name" for what lives outside the package.

A table maps a short name to the place that defines it, so nothing is imported before it is asked for. To add a model,
a task or an optimizer from another package, give its "module:Name" where the configuration expects a name.
"""

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from phalanx.errors import InputError

MODELS = {"gpt2": "phalanx.models.gpt2:GPT2", "bert": "phalanx.models.bert:Bert"}
TASKS = {"clm": "phalanx.tasks.clm:CausalLM", "mlm": "phalanx.tasks.mlm:MaskedLM"}
OPTIMIZERS = {
    "adamw": "phalanx.train.optim:adamw",
    "lamb": "phalanx.train.optim:lamb",
    "muon": "phalanx.train.optim:muon",
}
NEEDED = {  # what makes an object one of its kind
    "model.family": ("DEFAULTS", "PRESETS", "LOSSES", "parameters_of"),
    "task": ("source", "counts"),
    "optim.name": ("__call__",),
}


def find(kind: str, table: Mapping[str, str], name: str) -> Any:
    """The object that `table` or "module:Name" gives for `name`; `kind` names it in the error."""
    place = table.get(name, name)
    module, _, attribute = place.partition(":")
    if not attribute:
        near = difflib.get_close_matches(name, table, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"unknown {kind} {name!r}{hint} Known: {', '.join(table)}, or module:Name")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise InputError(f"{kind} {name!r} cannot be loaded: {error}") from error
    if missing := [need for need in NEEDED.get(kind, ()) if not hasattr(found, need)]:
        raise InputError(f"{kind} {name!r} is none: it has no {missing[0]}; known: {', '.join(table)}")
    return found
