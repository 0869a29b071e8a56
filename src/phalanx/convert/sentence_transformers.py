"""The settings of a sentence-transformers folder beside its BERT: how a text's vector is made from its tokens'."""

from pathlib import Path
from typing import Any, NamedTuple

from phalanx.data.tokenize import Tokenizer
from phalanx.foreign import read_json, read_objects, reading, short

MODULES, TRANSFORMER, DEFAULTS = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
SWITCHES = [f"pooling_mode_{name}" for name in (
    "cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")]  # fmt: skip
AROUND = 2  # tokens around every text, [CLS] and [SEP]
KNOWN = ("Transformer", "Pooling", "Normalize")


class Sentences(NamedTuple):
    """The way in which a folder turns texts into vectors."""

    longest: int | None = None
    """The most tokens that a text keeps; None where the folder does not say."""
    normalize: bool = True
    """Whether vectors are brought to length 1."""
    refused: str = ""
    """Why the vectors cannot be computed here; empty where they can."""


def read(folder: Path, tokenizer: Tokenizer) -> Sentences:
    """Return a folder's settings: defaults where it is not of sentence-transformers. InputError for a damaged file."""
    if not (folder / MODULES).is_file():
        return Sentences()

    modules = read_objects(folder / MODULES)
    kinds = [_kind(module) for module in modules]
    refused = [reason for kind, module in zip(kinds, modules, strict=True) if (reason := _module(folder, kind, module))]
    if (kinds[:2] != ["Transformer", "Pooling"] or {*kinds[2:]} - {"Normalize"}) and not refused:
        refused = [f"its modules are {', '.join(kinds) or 'none'}, and a Transformer with a Pooling is known here"]

    transformer, defaults = (_read(folder / name) or {} for name in (TRANSFORMER, DEFAULTS))
    if transformer.get("do_lower_case") and tokenizer.encode("Aa") != tokenizer.encode("aa"):
        refused.append("do_lower_case puts its texts in lower case first")
    if defaults.get("default_prompt_name"):
        refused.append(f"it begins its texts with the prompt {short(defaults['default_prompt_name'])}")

    longest = transformer.get("max_seq_length")
    if longest is not None and (type(longest) is not int or longest <= AROUND):
        refused.append(f"its max_seq_length is {short(longest)}, and a whole number above {AROUND} is needed")
        longest = None
    return Sentences(longest, "Normalize" in kinds, "; ".join(refused))


def _kind(module: dict[str, Any]) -> str:
    """Return the class of a module of sentence-transformers; "" for one of anyone else's."""
    place, _, name = str(module.get("type", "")).rpartition(".")
    return name if place.split(".")[0] == "sentence_transformers" else ""


def _module(folder: Path, kind: str, module: dict[str, Any]) -> str:
    """Return why a module cannot be computed here; "" if it can."""
    if kind not in KNOWN:
        return f"its module {short(module.get('type'))} is not known here"
    return _pooling(folder, str(module.get("path", ""))) if kind == "Pooling" else ""


def _pooling(folder: Path, path: str) -> str:
    """Return why the Pooling that is described in a subfolder cannot be computed here; "" if it can.

    A description that is missing is never taken for the mean: copies without subfolders are common.
    """
    if path in ("", "..") or Path(path).name != path:
        return f"its Pooling's path {short(path)} is no subfolder"
    facts = _read(folder / path / "config.json")
    if facts is None:
        return f"its Pooling's {short(f'{path}/config.json')} is not in the folder; copy it with its subfolders"

    wanted = facts.get("pooling_mode")  # since sentence-transformers 6; before, a switch for each
    if wanted is None:
        for name in SWITCHES:
            if not isinstance(facts.get(name, False), bool):
                return f"its {name} is {short(facts[name])}, and true or false is needed"
        on = [name.removeprefix("pooling_mode_") for name in SWITCHES if facts.get(name)]
        wanted = on[0] if len(on) == 1 else on or "mean"
    if wanted in ("mean", ["mean"], "mean_tokens"):
        return ""
    return f"its pooling is {short(wanted)}, and only the mean of all tokens is known here"


def _read(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None where there is no such file. InputError for a damaged one."""
    with reading(path):
        exists = path.is_file()
    return read_json(path) if exists else None
