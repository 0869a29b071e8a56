"""GPT-2 and BERT between a run folder and a Hugging Face folder, there and back bit-equal, a tensor at a time."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from phalanx import durable
from phalanx.config import Config, DataConfig, ExamplesConfig, ModelConfig
from phalanx.convert.folder import Weights, read_json
from phalanx.convert.vocabulary import write_tokenizer
from phalanx.data.tokenize import Tokenizer, load_tokenizer
from phalanx.errors import InputError
from phalanx.models.build import build, family, make
from phalanx.models.sizes import check
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.files import write_file
from phalanx.run.folder import RunFolder

TASKS = {"gpt2": "clm", "bert": "mlm"}
ARCHITECTURES = {"gpt2": "GPT2LMHeadModel", "bert": "BertForPreTraining"}
HEADS = {  # of a fine-tuned BERT
    "classes": "BertForSequenceClassification", "value": "BertForSequenceClassification",
    "span": "BertForQuestionAnswering", "choice": "BertForMultipleChoice", "tokens": "BertForTokenClassification",
}  # fmt: skip
FORMS: dict[str, Any] = {"span": "squad", "choice": "race", "tokens": "tags"}  # of the files that such a run reads
CANDIDATES = 4  # of a question, where config.json does not say
GELU = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "erf"}
# Not weights, or another's under a second name; what the named one must equal.
COPIES = {
    "lm_head.weight": "transformer.wte.weight",
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
BUFFERS = (".attn.bias", ".attn.masked_bias", "embeddings.position_ids")


@dataclass(frozen=True)
class Imported:
    """A run that was made, what its model lacked and got at random, and what of the folder has no place in it."""

    run: Path
    tensors: int
    missing: tuple[str, ...]
    unused: tuple[str, ...]

    def lines(self) -> list[str]:
        """For a terminal."""
        said = [f"{self.run}: {self.tensors} tensors"]
        if self.missing:
            said.append(f"not in the folder, so initialised at random: {', '.join(self.missing)}")
        if self.unused:
            said.append(f"in the folder, but of no use here: {', '.join(self.unused)}")
        return said


class _Like(Mapping[str, Tensor]):
    """The weights of a folder without their values."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def __getitem__(self, name: str) -> Tensor:
        return self.weights.like(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)


def import_folder(folder: Path, out: Path, seed: int = 0) -> Imported:
    """A run folder with the weights of a Hugging Face folder, in fp32, as its checkpoint of step 0. Heads that the
    folder has not are initialised by `seed`.
    """
    facts = read_json(folder / "config.json")
    model = model_of(facts, folder / "config.json")
    weights, tokenizer = Weights(folder), load_tokenizer(str(folder))
    if tokenizer.vocab > model.vocab:
        raise InputError(f"{folder}: the tokenizer has {tokenizer.vocab} tokens, the model only {model.vocab}")
    with torch.device("meta"):
        shapes = make(model).state_dict()
    found = _found(folder, weights, model, shapes)
    missing = [name for name in shapes if name not in found]
    spare = build(model.model_copy(update={"layers": 1}), seed, torch.device("cpu")).state_dict() if missing else {}
    unused = _unused(folder, weights, dict(family(model.family).to_hugging_face(shapes, model)))
    examples = ExamplesConfig(form=FORMS.get(model.head, "table"), labels=_labels(facts, model))
    task = model.head or TASKS[model.family]
    config = Config(task=task, model=model, data=DataConfig(sequence=model.positions), examples=examples)
    run = RunFolder.create(out, config, tokenizer.json())
    coming = family(model.family).from_hugging_face(weights, model)

    def read(name: str) -> Tensor:
        return spare[name] if name in spare and name in missing else _next(coming, name).float()

    try:
        Checkpointer(run).import_weights({name: shapes[name] for name in [*found, *missing]}, read)
    except BaseException:
        run.config_file.unlink()  # nothing that looks like a run is left
        raise
    return Imported(out, len(found), tuple(missing), tuple(unused))


def _found(folder: Path, weights: Weights, model: ModelConfig, shapes: Mapping[str, Tensor]) -> list[str]:
    """Names here of what a folder has, in the order in which it comes; InputError where it is not of this model."""
    names = []
    try:
        for name, like in family(model.family).from_hugging_face(_Like(weights), model):
            if like.shape != shapes[name].shape:
                said = f"[{', '.join(map(str, shapes[name].shape))}]"
                raise InputError(f"{folder}: {name} has the shape {[*like.shape]}, by config.json it has {said}")
            names.append(name)
    except KeyError as error:
        raise InputError(
            f"{folder} lacks the tensor {error.args[0]}: it is cut off, or another kind of model"
        ) from None
    except RuntimeError as error:
        raise InputError(f"{folder}: the weights are not of config.json's sizes: {error}") from None
    return names


def _unused(folder: Path, weights: Weights, expected: Mapping[str, Tensor]) -> list[str]:
    """Names of a folder that have no place; InputError where a second name means other weights than the first."""
    bare = {_bare(name) for name in expected}
    unused = []
    for name in weights:
        original = next((at for at in weights if name in COPIES and _bare(at) == _bare(COPIES[name])), None)
        if original is not None:
            if not torch.equal(weights[name], weights[original]):
                raise InputError(
                    f"{folder}: {name} differs from {original}; models with a head of its own are not known"
                )
        elif _bare(name) not in bare and not name.endswith(BUFFERS):
            unused.append(name)
    return unused


def _bare(name: str) -> str:
    return name.removeprefix("bert.").removeprefix("transformer.")


def _next(coming: Iterator[tuple[str, Tensor]], name: str) -> Tensor:
    """The next tensor, which must be that one."""
    said, tensor = next(coming)
    assert said == name, f"{said} came for {name}"
    return tensor


def export_run(run: Path, out: Path, best: bool = True) -> int:
    """Write a folder that `transformers` loads; how many tensors. InputError for a model that it has not."""
    folder = RunFolder.open(run)
    config, tokenizer = folder.config(), load_tokenizer(str(folder.tokenizer))
    model = config.model
    if model.family not in TASKS:
        raise InputError(f"{run} is a {model.family}, which Hugging Face does not have; gpt2 and bert go there")
    if model.family == "bert" and model.norm_first:
        raise InputError(f"{run} is a pre-LN BERT (model.norm_first), Hugging Face's is post-LN")
    if out.exists():
        raise InputError(f"{out} is there already; give another folder")
    kind, weights = family(model.family), Checkpointer(folder).weights(best)
    with torch.device("meta"):
        shapes = dict(kind.to_hugging_face(make(model).state_dict(), model))
    coming = kind.to_hugging_face(weights, model)
    beside = out.with_name(out.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    write_file(beside / "model.safetensors", shapes, lambda name: _next(coming, name), format="pt")
    durable.write(beside / "config.json", json.dumps(facts_of(config, tokenizer), indent=2).encode())
    write_tokenizer(tokenizer, model, beside)
    durable.rename(beside, out)
    return len(shapes)


def model_of(facts: Mapping[str, Any], path: Path) -> ModelConfig:
    """The model of a config.json; InputError for what is not known here."""
    kind = facts.get("model_type")
    if kind not in TASKS:
        raise InputError(f"{path}: model_type {kind!r} is not known here; {' and '.join(TASKS)} are")
    keys = _GPT2 if kind == "gpt2" else _BERT
    given = {ours: facts[theirs] for ours, theirs in keys.items() if facts.get(theirs) is not None}
    if lacking := [
        theirs for ours, theirs in keys.items() if ours in ("layers", "hidden", "heads") and ours not in given
    ]:
        raise InputError(f"{path} has no {lacking[0]}")
    gelu = facts.get(
        "activation_function" if kind == "gpt2" else "hidden_act", "gelu_new" if kind == "gpt2" else "gelu"
    )
    if gelu not in GELU:
        raise InputError(f"{path}: the activation {gelu!r} is not known here; {', '.join(GELU)} are")
    for key, usual in _USUAL.items():
        if facts.get(key, usual) != usual:
            raise InputError(f"{path}: {key}={facts[key]} is not known here")
    given |= _head(facts) if kind == "bert" else {}
    usual_sizes = dict(family(kind).DEFAULTS)
    try:
        model = ModelConfig(family=kind, **{**usual_sizes, **given, "gelu": GELU[gelu]})
    except (ValidationError, TypeError) as error:
        raise InputError(f"{path}: {str(error).splitlines()[0]}") from None
    check(model)
    return model.model_copy(update={"ffn": model.ffn or 4 * model.hidden})


def _head(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Which head a BERT has, by its class."""
    named = (facts.get("architectures") or [""])[0]
    head = next((ours for ours, theirs in HEADS.items() if theirs == named), "")
    count = len(facts["id2label"]) if isinstance(facts.get("id2label"), dict) else int(facts.get("num_labels", 2))
    if head == "classes" and (count == 1 or facts.get("problem_type") == "regression"):
        head = "value"
    classes = {"classes": count, "tokens": count, "choice": int(facts.get("num_choices", CANDIDATES))}
    return {"head": head, "classes": classes.get(head, 0)}


def _labels(facts: Mapping[str, Any], model: ModelConfig) -> tuple[str, ...]:
    """Names of the classes."""
    if model.head not in ("classes", "tokens"):
        return ()
    names = facts.get("id2label") or {}
    return tuple(str(names.get(str(n), f"LABEL_{n}")) for n in range(model.classes))


def facts_of(config: Config, tokenizer: Tokenizer) -> dict[str, Any]:
    """The config.json of a run's model."""
    model = config.model
    keys = _GPT2 if model.family == "gpt2" else _BERT
    facts = {theirs: getattr(model, ours) for ours, theirs in keys.items()}
    facts[keys["ffn"]] = model.ffn or 4 * model.hidden
    gelu = next(theirs for theirs, ours in GELU.items() if ours == model.gelu)
    facts |= {"model_type": model.family, "architectures": [ARCHITECTURES[model.family]], "torch_dtype": "float32"}
    if model.family == "gpt2":
        ends = {"bos_token_id": tokenizer.eod, "eos_token_id": tokenizer.eod}
        return facts | ends | {"activation_function": gelu, "embd_pdrop": model.dropout}
    return facts | {"hidden_act": gelu, "pad_token_id": tokenizer.pad or 0} | _told(config)


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
    labels = config.examples.labels
    return told | {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}


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
_USUAL = {  # what a model computes otherwise
    "position_embedding_type": "absolute", "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False, "is_decoder": False, "add_cross_attention": False, "tie_word_embeddings": True,
}  # fmt: skip
