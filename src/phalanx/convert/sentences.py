"""What a folder of sentence-transformers says beside its BERT: how a text's vector is made of those of its tokens."""

from pathlib import Path
from typing import Any, NamedTuple

from phalanx.data.tokenize import Tokenizer
from phalanx.foreign import read_json, read_objects

MODULES, TRANSFORMER, DEFAULTS = "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"
SWITCHES = [f"pooling_mode_{name}" for name in (
    "cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")]  # fmt: skip
KNOWN = ("Transformer", "Pooling", "Normalize")


class Sentences(NamedTuple):
    """Tokens of a text at most, none where the folder does not say; whether vectors are brought to length 1; and why
    they cannot be computed here.
    """

    longest: int | None = None
    normalize: bool = True
    refused: str = ""


def read(folder: Path, tokenizer: Tokenizer) -> Sentences:
    """What the folder says. One that is not of sentence-transformers says nothing. InputError for a damaged file."""
    if not (folder / MODULES).is_file():
        return Sentences()
    modules = read_objects(folder / MODULES)
    kinds = [str(module.get("type", "")).rpartition(".")[2] for module in modules]
    refused = [reason for kind, module in zip(kinds, modules, strict=True) if (reason := _module(folder, kind, module))]
    if kinds[:2] != ["Transformer", "Pooling"] and not refused:
        refused = [f"its modules are {', '.join(kinds) or 'none'}, and a Transformer with a Pooling is known here"]
    transformer, defaults = (_read(folder / name) for name in (TRANSFORMER, DEFAULTS))
    if transformer.get("do_lower_case") and tokenizer.encode("Aa") != tokenizer.encode("aa"):
        refused.append("do_lower_case puts its texts in lower case first")
    if defaults.get("default_prompt_name"):
        refused.append(f"it begins its texts with the prompt {defaults['default_prompt_name']!r}")
    longest = transformer.get("max_seq_length")
    return Sentences(
        longest if isinstance(longest, int) and longest > 2 else None, "Normalize" in kinds, "; ".join(refused)
    )


def _module(folder: Path, kind: str, module: dict[str, Any]) -> str:
    """Why a module cannot be computed here, or nothing."""
    if kind not in KNOWN:
        return f"its module {module.get('type')} is not known here"
    if kind != "Pooling":
        return ""
    facts = _read(folder / str(module.get("path", "")) / "config.json")
    wanted = facts.get("pooling_mode")  # since sentence-transformers 6; before, a switch for each
    if wanted is None:
        wanted = [name.removeprefix("pooling_mode_") for name, on in facts.items() if on is True and name in SWITCHES]
    modes = [wanted] if isinstance(wanted, str) else wanted or ["mean"]
    if modes in (["mean"], ["mean_tokens"]):
        return ""
    return f"its pooling is {', '.join(map(str, modes))}, and only the mean of all tokens is known here"


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
