"""Special tokens: which token begins a text, ends one, pads, masks, by the files beside a tokenizer or by usual names.

A tokenizer.json does not say what its special tokens are for; `tokenizer_config.json` and its neighbours do. Where
these say other than the usual names would, the entry of the token in our copy of tokenizer.json has `roles` as one key
more, which other readers pass over: so one file is the whole tokenizer.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from phalanx.data.backend import CONFIG, WHOLE
from phalanx.data.template import put_around
from phalanx.errors import InputError
from phalanx.foreign import read_json, short

SPECIAL_MAP, GENERATION, MODEL = "special_tokens_map.json", "generation_config.json", "config.json"
BESIDE = CONFIG, SPECIAL_MAP, GENERATION, MODEL
ROLES = ("bos", "eos", "sep", "pad", "cls", "mask")
ENDS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<｜end▁of▁sentence｜>")  # what ends documents, by name
USUAL = {"mask": ("[MASK]", "<mask>"), "cls": ("[CLS]", "<s>"), "sep": ("[SEP]", "</s>"), "pad": ("[PAD]", "<pad>")}
UNKNOWN = ("[UNK]", "<unk>")
KEY = "roles"  # of an added token in our tokenizer.json

Roles = Mapping[str, str]  # the text of a special token by its role


class DocumentEnd(NamedTuple):
    """The token that ends a document, where there is one. `candidates` are the tokens among which it cannot be told."""

    token: str | None
    candidates: tuple[str, ...] = ()


def document_end(backend: Backend, roles: Roles) -> DocumentEnd:
    """Return what ends a document: not always the end of generation, which in a chat ends a turn.

    A special token of a usual name is it; of several the one that is told as the end of sequence. One that is told
    without such a name is it where there is no other.
    """
    added = {token.content: token.special for token in backend.get_added_tokens_decoder().values()}
    special = [name for name, is_special in added.items() if is_special]
    eos = roles.get("eos")
    named = [name for name in ENDS if name in special] or [*islice(_present(backend, ENDS[:2]), 1)]
    if eos is not None and (eos in named or not named):
        return DocumentEnd(eos)
    if named:
        return DocumentEnd(named[0], tuple(named) if len(named) > 1 else ())

    others = {name for names in USUAL.values() for name in names} | {*UNKNOWN, *roles.values()}
    return DocumentEnd(None, tuple(name for name in special if name not in others))


def usual(backend: Backend, role: str) -> str | None:
    """Return the token of a role by its usual names."""
    if role == "eos":
        end = document_end(backend, {})
        return None if end.candidates else end.token
    return next(_present(backend, USUAL.get(role, ())), None)


def marked(text: str, backend: Backend, roles: Roles) -> str:
    """Return the text of a tokenizer.json with the roles that its tokens have against their usual names.

    What begins a text is not among them: the template says it.
    """
    odd = {role: token for role, token in roles.items() if role != "bos" and usual(backend, role) != token}
    if not odd:
        return text

    facts = json.loads(text)
    for entry in facts["added_tokens"]:
        if has := [role for role in ROLES if odd.get(role) == entry["content"]]:
            entry[KEY] = has
    return json.dumps(facts, ensure_ascii=False, separators=(",", ":"))


def roles_in(content: bytes) -> dict[str, str]:
    """Return the roles that `marked` wrote into a tokenizer.json."""
    if f'"{KEY}":'.encode() not in content:
        return {}
    added = json.loads(content).get("added_tokens", ())
    return {role: entry["content"] for entry in added for role in entry.get(KEY, ())}


def says_more(file: Path) -> bool:
    """Return whether files beside a tokenizer.json say more of its tokens."""
    return file.name == WHOLE and any(file.with_name(name).is_file() for name in BESIDE)


def tell(backend: Backend, folder: Path) -> dict[str, str]:
    """Make a tokenizer what the files of its folder say beside tokenizer.json, and return the roles of its tokens.

    Tokens that only these files name are added. What stands around a text is the template's of tokenizer.json, as in
    transformers; where there is no such file, `add_bos_token` and `add_eos_token` say it. InputError for files that are
    damaged, and for tokens whose numbers contradict each other.
    """
    config, others = _read(folder / CONFIG), _read(folder / SPECIAL_MAP)
    _add(backend, config.get("added_tokens_decoder"), folder / CONFIG)

    roles: dict[str, str] = {}
    for role in ROLES:
        for file, facts in (folder / CONFIG, config), (folder / SPECIAL_MAP, others):
            token = _content(facts.get(f"{role}_token"), f"{role}_token", file)
            if token is not None and backend.token_to_id(token) is not None:
                roles.setdefault(role, token)

    added = {token.content for token in backend.get_added_tokens_decoder().values()}
    backend.add_special_tokens([token for token in dict.fromkeys(roles.values()) if token not in added])
    if not (folder / WHOLE).exists() and not {"add_bos_token", "add_eos_token"}.isdisjoint(config):
        put_around(backend, *(roles.get(role) if config.get(f"add_{role}_token") else None for role in ("bos", "eos")))
    if "eos" not in roles and document_end(backend, roles).token is None:
        numbers = generation_ids(folder, "eos", (), backend.get_vocab_size())
        if end := next(filter(None, map(backend.id_to_token, numbers)), None):
            roles["eos"] = end
    return roles


def token_ids(file: Path, key: str) -> tuple[int, ...]:
    """Return the token, or the tokens, that a JSON file names by `key`, such as eos_token_id; none where it is not
    there. InputError for what are no tokens.
    """
    value = _read(file).get(key)
    listed = value if isinstance(value, list) else [value]
    if odd := [each for each in listed if each is not None and type(each) is not int]:
        raise InputError(f"{file}: {key}={short(odd[0])} will not do: it is to be a token's number, or some")
    return tuple(each for each in listed if type(each) is int)


def generation_ids(folder: Path, role: str, told: tuple[int, ...], vocab: int) -> tuple[int, ...]:
    """Return the tokens that begin ("bos") or end ("eos") what a folder's model writes: by generation_config.json, else
    what its tokenizer was told, else by config.json. Numbers that are not below `vocab` are left out.
    """
    by_file = (token_ids(folder / name, f"{role}_token_id") for name in (GENERATION, MODEL))
    first, last = (tuple(dict.fromkeys(i for i in ids if 0 <= i < vocab)) for ids in by_file)
    return first or told or last


def _present(backend: Backend, names: Iterable[str]) -> Iterator[str]:
    """Yield those of the names that are tokens, but for added ones that are not special: Gemma's `<s>` and `<mask>` are
    for other things.
    """
    added = backend.get_added_tokens_decoder()
    for name in names:
        i = backend.token_to_id(name)
        if i is not None and (i not in added or added[i].special):
            yield name


def _read(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def _content(value: Any, key: str, file: Path) -> str | None:
    """Return a token's text, which is written as such or as an object. InputError for anything else."""
    content = value.get("content") if isinstance(value, dict) else value
    if content is None or isinstance(content, str):
        return content or None
    raise InputError(f"{file}: {key}={short(value)} will not do: it is to be a token's text")


def _add(backend: Backend, listed: Any, file: Path) -> None:
    """Add the tokens of `added_tokens_decoder` that tokenizer.json lacks, each with the number that it is to have."""
    if not isinstance(listed, dict):
        return
    for number in sorted((number for number in listed if number.isdecimal()), key=int):
        facts = listed[number]
        token = _content(facts, f"added_tokens_decoder.{number}", file)
        if token is None or backend.token_to_id(token) is not None:
            continue
        flags = {key: facts[key] is True for key in ("single_word", "lstrip", "rstrip", "normalized") if key in facts}
        one = AddedToken(token, special=facts.get("special") is True, **flags)
        (backend.add_special_tokens if facts.get("special") is True else backend.add_tokens)([one])
        if (found := backend.token_to_id(token)) != int(number):
            raise InputError(
                f"{file} gives {token!r} the number {number}, beside its tokenizer.json it has {found}; "
                "the two are of different models"
            )
