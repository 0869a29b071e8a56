"""A Hugging Face folder's config.json as a model, and a run's model as a config.json.

A post-LN BERT is Hugging Face's `bert`, a pre-LN one its `megatron-bert`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, field_validator

from phalanx.config import MOST_CLASSES, Config, ExamplesConfig, ModelConfig
from phalanx.data.tokenize import Tokenizer
from phalanx.errors import InputError
from phalanx.foreign import complaint, short
from phalanx.models.family import check, family

FAMILIES = {"gpt2": "gpt2", "bert": "bert", "megatron-bert": "bert"}  # by model_type
ARCHITECTURES = {"gpt2": "GPT2LMHeadModel", "bert": "BertForPreTraining"}
HEADS = {  # of a fine-tuned BERT
    "classes": "BertForSequenceClassification", "value": "BertForSequenceClassification",
    "span": "BertForQuestionAnswering", "choice": "BertForMultipleChoice", "tokens": "BertForTokenClassification",
}  # fmt: skip
MEGATRON = "Megatron"  # before the name of a class for a pre-LN BERT
FORMS: dict[str, Any] = {"span": "squad", "choice": "race", "tokens": "tags"}  # of the files that such a run reads
CANDIDATES = 4  # of a question, where config.json does not say
GELU = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "erf"}
_GPT2 = {
    "vocab": "vocab_size", "positions": "n_positions", "hidden": "n_embd", "layers": "n_layer", "heads": "n_head",
    "ffn": "n_inner", "norm_eps": "layer_norm_epsilon", "dropout": "resid_pdrop", "attention_dropout": "attn_pdrop",
    "init_std": "initializer_range",
}  # fmt: skip
_BERT = {
    "vocab": "vocab_size", "positions": "max_position_embeddings", "hidden": "hidden_size",
    "layers": "num_hidden_layers", "heads": "num_attention_heads", "ffn": "intermediate_size",
    "segments": "type_vocab_size", "norm_eps": "layer_norm_eps", "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob", "init_std": "initializer_range",
}  # fmt: skip
_NEEDED = ("layers", "hidden", "heads", "vocab")
_USUAL = {  # what a model computes otherwise
    "position_embedding_type": "absolute", "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False, "is_decoder": False, "add_cross_attention": False, "tie_word_embeddings": True,
}  # fmt: skip

_Count = Annotated[int, Field(ge=1, le=MOST_CLASSES)]


class _Facts(BaseModel):
    """What a config.json tells beside the sizes, of the types that it must have."""

    model_type: str
    architectures: list[str] | None = None
    activation_function: str = "gelu_new"
    hidden_act: str = "gelu"
    id2label: Annotated[dict[str, str | int | float], Field(min_length=1)] | None = None
    num_labels: _Count | None = None
    num_choices: _Count | None = None
    problem_type: str | None = None

    @field_validator("id2label")
    @classmethod
    def _is_text(cls, names: dict[str, Any] | None) -> dict[str, Any] | None:
        """JSON can write halves of characters, which no file of ours can hold."""
        for name in (names or {}).values():
            str(name).encode()  # UnicodeEncodeError is a ValueError
        return names


def model_of(facts: Mapping[str, Any], path: Path) -> ModelConfig:
    """The model of a config.json's content, which was read from `path`; InputError for what is not known here."""
    kind = facts.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise InputError(f"{path}: model_type {short(kind)} is not known here; {', '.join(FAMILIES)} are")
    for key, usual in _USUAL.items():
        if facts.get(key, usual) != usual:
            raise InputError(f"{path}: {key}={short(facts[key])} is not known here")

    try:
        told = _Facts.model_validate(facts)
    except ValidationError as error:
        raise complaint(path, error, {}) from None

    keys = _GPT2 if kind == "gpt2" else _BERT
    given = {ours: facts[theirs] for ours, theirs in keys.items() if facts.get(theirs) is not None}
    if lacking := [keys[ours] for ours in _NEEDED if ours not in given]:
        raise InputError(f"{path} has no {lacking[0]}")

    gelu = told.activation_function if kind == "gpt2" else told.hidden_act
    if gelu not in GELU:
        raise InputError(f"{path}: the activation {gelu!r} is not known here; {', '.join(GELU)} are")
    if FAMILIES[kind] == "bert":
        given |= {"norm_first": kind == "megatron-bert", **_head(told)}

    try:
        model = ModelConfig(family=FAMILIES[kind], **{**family(FAMILIES[kind]).DEFAULTS, **given, "gelu": GELU[gelu]})
    except ValidationError as error:
        raise complaint(path, error, keys) from None

    try:
        check(model)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return model.model_copy(update={"ffn": model.ffn or 4 * model.hidden})


def examples_of(facts: Mapping[str, Any], model: ModelConfig) -> ExamplesConfig:
    """What a fine-tuned model's run reads, and the names of its classes."""
    form = FORMS.get(model.head, "table")
    if model.head not in ("classes", "tokens"):
        return ExamplesConfig(form=form)
    names = facts.get("id2label") or {}
    labels = tuple(str(names.get(str(n), f"LABEL_{n}")) for n in range(model.classes))
    return ExamplesConfig(form=form, labels=labels)


def facts_of(config: Config, tokenizer: Tokenizer) -> dict[str, Any]:
    """The config.json of a run's model."""
    model = config.model
    keys = _GPT2 if model.family == "gpt2" else _BERT
    facts = {theirs: getattr(model, ours) for ours, theirs in keys.items()}
    facts[keys["ffn"]] = model.ffn or 4 * model.hidden
    gelu = next(theirs for theirs, ours in GELU.items() if ours == model.gelu)
    facts |= {"architectures": [ARCHITECTURES[model.family]], "torch_dtype": "float32"}
    if model.family == "gpt2":
        ends = {"bos_token_id": tokenizer.eod, "eos_token_id": tokenizer.eod}
        return facts | ends | {"model_type": "gpt2", "activation_function": gelu, "embd_pdrop": model.dropout}
    facts |= {"model_type": "bert", "hidden_act": gelu, "pad_token_id": tokenizer.pad or 0, **_told(config)}
    if model.norm_first:
        facts |= {"model_type": "megatron-bert", "architectures": [MEGATRON + facts["architectures"][0]]}
    return facts


def _head(told: _Facts) -> dict[str, Any]:
    """The model's keys that say which head a BERT has, by its class."""
    named = (told.architectures or [""])[0].removeprefix(MEGATRON)
    head = next((ours for ours, theirs in HEADS.items() if theirs == named), "")
    count = len(told.id2label) if told.id2label else told.num_labels or 2
    if head == "classes" and (count == 1 or told.problem_type == "regression"):
        head = "value"
    classes = {"classes": count, "tokens": count, "choice": told.num_choices or CANDIDATES}
    return {"head": head, "classes": classes.get(head, 0)}


def _told(config: Config) -> dict[str, Any]:
    """What config.json says of a fine-tuned head."""
    head = config.model.head
    if not head:
        return {}
    told: dict[str, Any] = {"architectures": [HEADS[head]]}
    if head == "choice":
        return told | {"num_choices": config.model.classes}
    if head == "value":
        return told | {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}, "problem_type": "regression"}
    if head == "span":
        return told
    labels = config.examples.labels or [f"LABEL_{n}" for n in range(config.model.classes)]
    return told | {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
