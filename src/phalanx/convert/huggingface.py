"""GPT-2 and BERT between a run folder and a Hugging Face folder, there and back bit-equal, a tensor at a time."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from phalanx import durable
from phalanx.config import Config, DataConfig, ModelConfig
from phalanx.convert import bert, gpt2, sentence_transformers
from phalanx.convert.bert import BESIDE, outside_blocks
from phalanx.convert.config_json import examples_of, facts_of, model_of
from phalanx.convert.folder import Weights
from phalanx.convert.imported import Imported, write_run
from phalanx.convert.vocabulary import write_tokenizer
from phalanx.data.tokenize import load_tokenizer
from phalanx.errors import InputError
from phalanx.foreign import read_json
from phalanx.models.build import build, make
from phalanx.models.family import family
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.files import write_file
from phalanx.run.folder import RunFolder
from phalanx.run.import_record import ImportRecord

NAMES = {"gpt2": gpt2, "bert": bert}  # modules that know a family's weights by Hugging Face's names
MULTILABEL = "multi_label_classification"  # as config.json has it
# Not weights, or another's under a second name; what the named one must equal.
COPIES = {
    "lm_head.weight": "transformer.wte.weight",
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
BUFFERS = (".attn.bias", ".attn.masked_bias", "embeddings.position_ids")


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
    """Make a run folder with the weights of a Hugging Face folder, in fp32, as its checkpoint of step 0. Heads that the
    folder lacks are initialised by `seed`. InputError for a folder that is damaged or not known here.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise InputError(f"{folder} has no config.json: it is no Hugging Face model's folder")
    facts = read_json(file)
    model = model_of(facts, file)

    weights = Weights(folder)
    _check_shapes(folder, weights, model)
    tokenizer = load_tokenizer(str(folder))
    if tokenizer.vocab > model.vocab:
        raise InputError(f"{folder}: the tokenizer has {tokenizer.vocab} tokens, the model only {model.vocab}")

    with torch.device("meta"):
        shapes = make(model).state_dict()
    found = dict(NAMES[model.family].from_hugging_face(_Like(weights), model))
    missing = [name for name in shapes if name not in found]
    spare = build(model.model_copy(update={"layers": 1}), seed, torch.device("cpu")).state_dict() if missing else {}
    unused = _unused(folder, weights, dict(NAMES[model.family].to_hugging_face(shapes, model)))

    said = sentence_transformers.read(folder, tokenizer)
    config = Config(
        task=model.head or family(model.family).TASK, model=model,
        data=DataConfig(sequence=min(model.positions, said.longest or model.positions)),
        examples=examples_of(facts, model),
    )  # fmt: skip
    record = ImportRecord(
        source=f"hf:{folder.resolve()}", missing={name: _there(name, model) for name in missing},
        multilabel=model.head == "classes" and facts.get("problem_type") == MULTILABEL,
        normalize=said.normalize, no_vectors=said.refused,
    )  # fmt: skip
    coming = NAMES[model.family].from_hugging_face(weights, model)

    def read(name: str) -> Tensor:
        return spare[name] if name in spare and name in missing else _next(coming, name).float()

    write_run(out, config, tokenizer.json(), {name: shapes[name] for name in [*found, *missing]}, read, record)
    return Imported(out, len(found), tuple(missing), tuple(unused))


def _there(name: str, model: ModelConfig) -> str:
    """Hugging Face's name of a weight that is not in a block."""
    theirs = outside_blocks(model)[name]
    return theirs if theirs.startswith(BESIDE) else f"bert.{theirs}"


def _check_shapes(folder: Path, weights: Weights, model: ModelConfig) -> None:
    """InputError unless the folder has each tensor of the model's body in the shape that config.json gives it.

    A head's tensors may be absent, and the pooler's, which only heads use. Names and shapes are compared before any
    layer is made, so a config.json that promises more than the file holds costs nothing.
    """
    body = "bert." if model.family == "bert" else "transformer."
    embedding = "embeddings.word_embeddings.weight" if model.family == "bert" else "wte.weight"
    prefix = body if body + embedding in weights else ""
    for name, shape in _shapes(model):
        there = prefix + name.removeprefix(body) if name.startswith(body) else name
        if there not in weights:
            if not name.startswith(body) or name.startswith("bert.pooler."):
                continue
            raise InputError(f"{folder} lacks the tensor {there}: it is cut off, or another kind of model")
        if (found := weights.like(there).shape) != shape:
            raise InputError(f"{folder}: {there} has the shape {[*found]}, by config.json it has {[*shape]}")


def _shapes(model: ModelConfig) -> Iterator[tuple[str, torch.Size]]:
    """Hugging Face's names of a model's tensors and their shapes, layer after layer, by the shapes of one layer."""
    one = model.model_copy(update={"layers": 1})
    with torch.device("meta"):
        shapes = dict(NAMES[one.family].to_hugging_face(make(one).state_dict(), one))
    layer = {name: tensor.shape for name, tensor in shapes.items() if ".0." in name}
    yield from ((name, tensor.shape) for name, tensor in shapes.items() if name not in layer)
    for number in range(model.layers):
        yield from ((name.replace(".0.", f".{number}.", 1), shape) for name, shape in layer.items())


def _unused(folder: Path, weights: Weights, expected: Mapping[str, Tensor]) -> list[str]:
    """Names of a folder that have no place; InputError where a second name means other weights than the first."""
    bare = {_bare(name) for name in expected}
    there: dict[str, str] = {}
    for name in weights:
        there.setdefault(_bare(name), name)

    unused = []
    for name in weights:
        original = there.get(_bare(COPIES[name])) if name in COPIES else None
        if original is not None:
            if not torch.equal(weights[name].float(), weights[original].float()):
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
    """Write a folder that `transformers` loads, and return how many tensors it has. InputError for a model that
    `transformers` does not have.
    """
    folder = RunFolder.open(run)
    config, tokenizer = folder.config(), load_tokenizer(str(folder.tokenizer))
    model = config.model
    _check_exportable(run, model)

    kind, weights = NAMES[model.family], Checkpointer(folder).weights(best)
    with torch.device("meta"):
        shapes = dict(kind.to_hugging_face(make(model).state_dict(), model))
    record = ImportRecord.read(folder)
    shapes = {name: like for name, like in shapes.items() if name not in record.missing.values()}
    coming = ((name, tensor) for name, tensor in kind.to_hugging_face(weights, model) if name in shapes)
    facts = facts_of(config, tokenizer) | ({"problem_type": MULTILABEL} if record.multilabel else {})

    with durable.new_folder(out) as beside:
        write_file(beside / "model.safetensors", shapes, lambda name: _next(coming, name), format="pt")
        durable.write(beside / "config.json", json.dumps(facts, indent=2).encode())
        write_tokenizer(tokenizer, model, beside)
    return len(shapes)


def _check_exportable(run: Path, model: ModelConfig) -> None:
    """InputError for a model that Hugging Face does not have."""
    if model.family not in NAMES:
        raise InputError(f"{run} is a {model.family}, which Hugging Face does not have; gpt2 and bert go there")
    if model.family == "bert" and not model.segments:
        raise InputError(f"{run} is a BERT without segments (model.segments=0), which Hugging Face does not have")
    if model.family == "gpt2" and (model.segments or not model.norm_first):
        what = "has segments (model.segments)" if model.segments else "is post-LN (model.norm_first=false)"
        raise InputError(f"{run} {what}, which Hugging Face's GPT-2 is without")
