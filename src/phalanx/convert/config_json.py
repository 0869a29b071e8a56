"""A Hugging Face folder's config.json as a model, and a run's model as a config.json.

What is particular to a model_type stands in its family's file, what is particular to a head of fine-tuning in the
head's; here is what all have in common.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from phalanx import registry
from phalanx.config import MOST_CLASSES, Config, ExamplesConfig
from phalanx.data.tokenize import Tokenizer
from phalanx.errors import InputError
from phalanx.foreign import complaint, short
from phalanx.heads.head import head_class, head_of
from phalanx.model_config import ModelConfig, section_of
from phalanx.models.family import check, configured, hugging_face, spec_of
from phalanx.models.hugging_face import ALIKE, INSIDE, HuggingFace

_NEEDED = ("layers", "hidden", "heads", "vocab")
_EXPERTS = "mixtures of experts"
_LACKING = {  # of models that people ask for
    "mpnet": "relative positions, as a bias of attention's scores",
    "gemma2": "soft-caps of attention's scores and of logits", "gpt_oss": f"attention sinks and {_EXPERTS}",
    **dict.fromkeys(("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "granitemoe", "llama4"), _EXPERTS),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), f"latent attention and {_EXPERTS}"),
}  # fmt: skip

_Count = Annotated[int, Field(ge=1, le=MOST_CLASSES)]


class _Facts(BaseModel):
    """The keys of a config.json that describe its head, with the types that they must have."""

    model_config = ConfigDict(strict=True)
    architectures: list[str] | None = None
    id2label: Annotated[dict[str, str | int | float], Field(min_length=1)] | None = None
    num_labels: _Count | None = None
    num_choices: _Count | None = None
    problem_type: str | None = None

    @field_validator("id2label")
    @classmethod
    def _is_text(cls, names: dict[str, Any] | None) -> dict[str, Any] | None:
        """Raise for halves of characters, which JSON can write and no file of ours can hold."""
        for name in (names or {}).values():
            str(name).encode()  # UnicodeEncodeError is a ValueError
        return names


def model_of(
    facts: Mapping[str, Any], path: Path, outside: str = "", head: str = ""
) -> tuple[ModelConfig, HuggingFace]:
    """Return the model of a config.json's content, which was read from `path`, and what it is at Hugging Face. The
    family `outside` and the `head` ("module:Name") are asked before those of the package. InputError for what is not
    known here, which names the key, its value, and the model_type.
    """
    kind, known = facts.get("model_type"), dict(_known(outside))
    if not isinstance(kind, str) or kind not in known:
        missing = _LACKING.get(str(kind), "")
        why = f": it has {missing}, which no module here computes" if missing else ""
        why = why or (
            ": the folder brings code of its own (auto_map), which is not run here" if facts.get("auto_map") else ""
        )
        raise InputError(f"{path}: model_type {short(kind)} is not known here{why}; {', '.join(known)} are")
    try:
        return _model_of(facts, path, *known[kind], head)
    except InputError as error:
        raise InputError(f"{error} (model_type {kind})") from None


def _model_of(
    facts: Mapping[str, Any], path: Path, name: str, form: HuggingFace, head: str
) -> tuple[ModelConfig, HuggingFace]:
    """Return the model of the family `name`, which a config.json describes in a known form."""
    try:
        facts = form.facts_inside(facts)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    _check_usual(facts, form, path)

    try:
        head_facts = _Facts.model_validate(facts)
    except ValidationError as error:
        raise complaint(path, error, {}) from None
    tuned = _head(head_facts, form, head)
    if head and tuned.get("head") != head:
        raise InputError(f"{path}: architectures={short(head_facts.architectures)} has not the head {head}")

    names = {**INSIDE, **form.keys}
    given = {ours: facts[theirs] for ours, theirs in form.keys.items() if facts.get(theirs) is not None}
    try:
        given |= form.read(facts)
        if lacking := [form.keys[ours] for ours in _NEEDED if ours not in given]:
            raise InputError(f"it has no {lacking[0]}")
        _check_kinds(given, section_of(name), names)
        model = configured(**{"family": name, **given, **tuned})
        for ours, value in given.items():
            if getattr(model, ours) != value or (ours == "vocab" and not value):  # 0, for which a section takes another
                raise InputError(f"{names.get(ours, ours)}={short(value)} will not do")
        check(model)
    except ValidationError as error:
        raise complaint(path, error, names) from None
    except InputError as error:
        message = re.sub(r"\bmodel\.(\w+)", lambda key: names.get(key[1], key[0]), str(error))
        raise InputError(f"{path}: {message}") from None
    return model, form.with_head(tuned.get("head", ""))


def _check_usual(facts: Mapping[str, Any], form: HuggingFace, path: Path) -> None:
    """Raise InputError for the first fact that asks for another computation than that which is known here."""
    for key, usual in form.usual.items():
        value = facts.get(key, usual)
        if ALIKE.get(key) == (usual, value):
            continue
        if value != usual or isinstance(value, bool) != isinstance(usual, bool):  # to Python 1 is true
            raise InputError(f"{path}: {key}={short(facts[key])} is not known here")


def _check_kinds(given: Mapping[str, Any], section: type[ModelConfig], names: Mapping[str, str]) -> None:
    """Raise InputError for the first value of a section's keys that is of another kind than JSON has for it: a number
    as text, a whole number with a fraction, true for 1. What command lines write as text a file does not.
    """
    kinds: dict[Any, tuple[tuple[type, ...], str]] = {
        int: ((int,), "a whole number"), float: ((int, float), "a number"), bool: ((bool,), "true or false"),
    }  # fmt: skip
    for ours, value in given.items():
        field = section.model_fields.get(ours)
        types, wanted = kinds.get(field.annotation, ((), "")) if field else ((), "")
        if types and type(value) not in types:
            raise InputError(f"{names.get(ours, ours)}={short(value)} will not do: it is to be {wanted}")


def examples_of(facts: Mapping[str, Any], model: ModelConfig) -> ExamplesConfig:
    """Return what a fine-tuned model's run reads, and the names of its classes."""
    head = head_of(spec_of(model))
    if head is None:
        return ExamplesConfig()
    names = (facts.get("id2label") or {}) if head.named else {}
    labels = tuple(str(names.get(str(n), f"LABEL_{n}")) for n in range(head.part.width)) if head.named else ()
    form: Any = head.form
    return ExamplesConfig(form=form, labels=labels)


def facts_of(config: Config, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the config.json of a run's model. InputError for a model that Hugging Face does not have."""
    model = config.model
    causal, end, pad = spec_of(model).causal, tokenizer.eod, tokenizer.pad or 0
    facts = model_facts(model, {"bos_token_id": end, "eos_token_id": end} if causal else {})
    if not causal and facts.setdefault("pad_token_id", pad) != pad:
        raise InputError(
            f"the model's positions begin behind the row of token {facts['pad_token_id']}, which is not the padding of "
            f"its tokenizer ({tokenizer.pad}): Hugging Face's {facts['model_type']} would count them otherwise"
        )

    if not causal:  # a family that has other numbers by default leaves the places of these open
        marks = {"cls": tokenizer.cls, "bos": tokenizer.cls, "sep": tokenizer.sep, "eos": tokenizer.sep}
        open_places = [role for role in marks if facts.get(f"{role}_token_id", "") is None]
        facts |= {f"{role}_token_id": marks[role] for role in open_places}

    head = head_of(spec_of(model), config.examples.labels)
    return facts | (head.facts() if head else {})


def model_facts(model: ModelConfig, tokens: Mapping[str, int | None] = MappingProxyType({})) -> dict[str, Any]:
    """Return the config.json of a model without what a run knows besides, but for the `tokens` that mark its texts.
    InputError for a model that Hugging Face does not have.
    """
    kind, form = form_of(model, "the model")
    facts: dict[str, Any] = {theirs: getattr(model, ours) for ours, theirs in form.keys.items()}
    facts |= {"architectures": [form.architecture], "torch_dtype": "float32", **tokens}
    return facts | {"model_type": kind, **form.write(model)}


def form_of(model: ModelConfig, what: str | Path) -> tuple[str, HuggingFace]:
    """Return the model_type that a model has at Hugging Face, with what is known of it and of its head. InputError for
    a model, called `what`, that Hugging Face does not have.
    """
    forms = hugging_face(model.family)
    if not forms:
        names = ", ".join(name for name in registry.MODELS.places if hugging_face(name))
        raise InputError(f"{what} is a {model.family}, which Hugging Face does not have; {names} go there")

    reasons = {kind: form.why_not(model) for kind, form in forms.items()}
    if all(reasons.values()):
        raise InputError(f"{what} {next(iter(reasons.values()))}")
    kind = next(kind for kind, reason in reasons.items() if not reason)
    try:
        return kind, forms[kind].with_head(spec_of(model).tuned)
    except InputError as error:
        raise InputError(f"{what} cannot go there: {error}") from None


def _known(outside: str) -> Iterator[tuple[str, tuple[str, HuggingFace]]]:
    """Yield every model_type that is known here, with the name of its family; that of `outside` last, which counts.
    InputError where that has none.
    """
    if outside and not hugging_face(outside):
        raise InputError(f"the family {outside} has no HUGGING_FACE, which names its weights there")
    for name in [*registry.MODELS.places, *([outside] if outside else [])]:
        for kind, form in hugging_face(name).items():
            yield kind, (name, form)


def _head(head_facts: _Facts, form: HuggingFace, outside: str) -> dict[str, Any]:
    """Return the model's keys that say which head of fine-tuning it has, by its class there; none for a model_type
    without such heads.
    """
    if not form.tuned:
        return {}
    named, facts = (head_facts.architectures or [""])[0], head_facts.model_dump()
    for name in [*([outside] if outside else []), *registry.HEADS.places]:
        kind = head_class(name)
        known = bool(kind.hugging_face) and named == form.tuned + kind.hugging_face
        if known and (classes := kind.classes_of(facts)) is not None:
            return {"head": name, "classes": classes}
    return {"head": "", "classes": 0}
