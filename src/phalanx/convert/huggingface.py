"""Models between a run folder and a Hugging Face folder, there and back bit-equal, a tensor at a time."""

import json
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from phalanx import durable
from phalanx.config import Config, DataConfig, ModelConfig
from phalanx.convert import sentence_transformers
from phalanx.convert.config_json import examples_of, facts_of, form_of, model_of
from phalanx.convert.folder import Tensors, Weights
from phalanx.convert.imported import Imported, write_run
from phalanx.convert.linked import Linked, exported, imported
from phalanx.convert.vocabulary import TEMPLATE, read_chat_template, write_tokenizer
from phalanx.data.special import generation_ids
from phalanx.data.tokenize import Tokenizer, load_run_tokenizer, load_tokenizer
from phalanx.errors import InputError
from phalanx.foreign import read_json
from phalanx.heads.classes import ClassesHead
from phalanx.heads.head import head_of
from phalanx.models.build import build
from phalanx.models.family import described, family, spec_of
from phalanx.models.hugging_face import HuggingFace
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.files import write_file
from phalanx.run.folder import RunFolder
from phalanx.run.import_record import ImportRecord, ModelSource
from phalanx.spec.links import Link, Names, bare, links, second_names, unnamed
from phalanx.spec.model import Spec

MULTILABEL = "multi_label_classification"  # as config.json has it


class Elsewhere(NamedTuple):
    """Weights that do not lie in the folder of their config.json, and the model's source as its record names it."""

    weights: Tensors
    source: str
    commit: str = ""


class Contents(NamedTuple):
    """The weights of a model that a folder has: the links along which they are read, what of the model is missing (our
    names, and the folder's), and what of the folder has no place.
    """

    links: list[Link]
    missing: dict[str, str]
    unused: list[str]


class FolderModel(NamedTuple):
    """A Hugging Face folder, read but for its weights: the configuration of the run that it becomes, the record of that
    import, and which of the model's weights it has.
    """

    config: Config
    record: ImportRecord
    tokenizer: Tokenizer
    weights: Tensors | None
    contents: Contents


def import_model(source: ModelSource, out: Path, seed: int = 0, outside: str = "", head: str = "") -> Imported:
    """Make a run folder of a Hugging Face folder as `import_folder` does, or of a model of the hub, which is downloaded
    first, and of which the record names the commit.
    """
    folder = source.local()
    elsewhere = Elsewhere(Weights(folder), source.origin, folder.name) if source.hub else None
    return import_folder(folder, out, seed, outside, head, elsewhere)


def import_folder(
    folder: Path, out: Path, seed: int = 0, outside: str = "", head: str = "", elsewhere: Elsewhere | None = None
) -> Imported:
    """Make a run folder with the weights of a Hugging Face folder, in fp32, as its checkpoint of step 0. Heads that the
    folder lacks are initialised by `seed`. `outside` is the family, as "module:Name", of a model_type that the package
    does not know, `head` a head of fine-tuning that it does not know. The weights are those `elsewhere` where that is
    given. InputError for a folder that is damaged or not known here.
    """
    found = read_folder(folder, outside, head, (lambda _: elsewhere.weights) if elsewhere else Weights)
    contents, tokenizer, model = found.contents, found.tokenizer, found.config.model
    named = {"source": elsewhere.source, "commit": elsewhere.commit} if elsewhere else {}
    assert found.weights is not None

    tensors: dict[str, Tensor] = {}
    if contents.missing:
        shallow = model.model_copy(update={"layers": 1})  # has all heads, and their first weights are the same
        tensors = build(shallow, seed, torch.device("cpu")).state_dict()
    parameters = imported(contents.links, found.weights)

    def read(name: str) -> Tensor:
        return parameters[name] if name in parameters else tensors[name]

    shapes = {name: parameters.like(name) for name in parameters} | {name: tensors[name] for name in contents.missing}
    write_run(out, found.config, tokenizer.json(), shapes, read, found.record.model_copy(update=named))
    otherwise = tuple(_otherwise(tokenizer)) if spec_of(model).causal else ()
    return Imported(out, len(parameters), tuple(contents.missing), tuple(contents.unused), otherwise)


def read_folder(
    folder: Path, outside: str = "", head: str = "", opened: Callable[[Path], Tensors] | None = Weights
) -> FolderModel:
    """Read a Hugging Face folder as `import_folder` does, and compare its weights, which `opened` finds, with the
    model; None leaves them out.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise InputError(f"{folder} has no config.json: it is no Hugging Face model's folder")
    facts = read_json(file)
    model, form = model_of(facts, file, outside, head)
    facts = dict(form.facts_inside(facts))

    weights = opened(folder) if opened else None
    spec = described(model)
    contents = Contents([], {}, [])
    if weights is not None:
        contents = compared(folder, weights, spec, form.names, may_untie="tied" in form.keys)
    tokenizer = load_tokenizer(str(folder))
    if tokenizer.vocab > model.vocab:
        raise InputError(f"{folder}: the tokenizer has {tokenizer.vocab} tokens, the model only {model.vocab}")

    sentences = sentence_transformers.read(folder, tokenizer)
    tuned = head_of(spec_of(model))
    config = Config(
        task=tuned.task if tuned else family(model.family).TASK, model=model,
        data=DataConfig(
            sequence=min(model.positions, sentences.longest or model.positions),
            pairs="none" if spec.losses == ("mlm",) else "nsp",
        ),
        examples=examples_of(facts, model),
    )  # fmt: skip
    record = ImportRecord(
        source=f"hf:{folder.resolve()}", missing=contents.missing,
        multilabel=isinstance(tuned, ClassesHead) and facts.get("problem_type") == MULTILABEL,
        normalize=sentences.normalize, no_vectors=sentences.refused, chat_template=read_chat_template(folder),
        **(_special(tokenizer, folder) if spec.causal else {}),
    )  # fmt: skip
    return FolderModel(config, record, tokenizer, weights, contents)


def _otherwise(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield what a decoder's folder asks of texts that is not done here."""
    if behind := tokenizer.around[len(tokenizer.begin) :]:
        yield f"the tokenizer there puts {', '.join(map(repr, behind))} behind every text; here behind prompts alone"


def _special(tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """Return the tokens that begin and end what a decoder's folder has it write, where the tokenizer alone says others.
    InputError for what are no tokens.
    """
    bos = () if tokenizer.bos is None else (tokenizer.bos,)
    eos = () if tokenizer.eos is None else tokenizer.ends
    begin, *_ = *generation_ids(folder, "bos", bos, tokenizer.vocab), None
    ends = generation_ids(folder, "eos", eos, tokenizer.vocab)
    return {"begin": None if begin == tokenizer.eod else begin, "ends": () if {*ends} == {*tokenizer.ends} else ends}


def compared(folder: Path, weights: Tensors, spec: Spec, names: Names, may_untie: bool = False) -> Contents:
    """Compare a folder's names and shapes with those of a model, before anything of the model's size is made: a
    config.json that promises more than the files hold costs nothing.

    A head's tensors may be missing, and a tensor may be there under its second name alone. InputError where another is
    missing, where one has another shape than config.json gives it, and where a second name means other numbers than the
    first, which says what would do where a config.json `may_untie` the head.
    """
    embedding, alone = (next(links(spec, known)).theirs.name for known in (names, bare(names)))
    if embedding not in weights and alone in weights:
        names = bare(names)

    seconds = second_names(spec, names)
    instead = {first: second for second, first in seconds.items() if second in weights and first not in weights}
    read, missing, expected = list[Link](), dict[str, str](), set[str]()
    for known in links(spec, names):
        link = known._replace(theirs=known.theirs._replace(name=instead.get(known.theirs.name, known.theirs.name)))
        name, shape = link.theirs.name, link.theirs.shape
        expected.add(name)
        if name not in weights:
            if link.ours.name.startswith("transformer."):
                raise InputError(f"{folder} lacks the tensor {name}: it is cut off, or another kind of model")
            missing[link.ours.name] = name
        elif (stored := weights.like(name).shape) != shape:
            raise InputError(f"{folder}: {name} has the shape {[*stored]}, by config.json it has {[*shape]}")
        else:
            read.append(link)

    read = [link for link in read if link.ours.name not in missing]  # a part of a parameter is none
    unused = _unused(folder, weights, expected, seconds, names.buffers, may_untie)
    return Contents(read, missing, unused)


def _unused(
    folder: Path, weights: Mapping[str, Tensor], expected: Container[str], seconds: Mapping[str, str],
    buffers: tuple[str, ...], may_untie: bool,
) -> list[str]:  # fmt: skip
    """Return a folder's names that have no place. InputError where a second name means other numbers than the first."""
    unused = []
    for name in weights:
        first = seconds.get(name)
        if first is not None and first in weights:
            if not torch.equal(weights[name].float(), weights[first].float()):
                why = "and they are one tensor in models of this model_type:"
                if may_untie:
                    why = f"and tie_word_embeddings is true: set it to false in config.json if {name} is meant, or"
                raise InputError(f"{folder}: {name} differs from {first}, {why} leave {name} out if {first} is meant")
        elif name not in expected and not name.endswith(buffers):
            unused.append(name)
    return unused


class Outgoing(NamedTuple):
    """A run's model as others name it: its config.json, its tensors by their names there, and its texts' tokenizer with
    the tokens that begin and end a text, where these are others than its end of text; `template` makes a prompt of a
    conversation, if there is one.
    """

    facts: dict[str, Any]
    tensors: Linked
    spec: Spec
    tokenizer: Tokenizer
    begin: int | None
    ends: tuple[int, ...]
    template: str


def outgoing(run: Path, best: bool = True) -> Outgoing:
    """Return the model of a run as Hugging Face names it. InputError for one that Hugging Face does not have."""
    folder = RunFolder.open(run)
    config = folder.config()
    tokenizer = load_run_tokenizer(folder.own_tokenizer(), config.model.vocab)
    spec, form = spec_of(config.model), _whole_form_of(config.model, run)

    record = ImportRecord.read(folder)
    facts = facts_of(config, tokenizer) | ({"problem_type": MULTILABEL} if record.multilabel else {})

    begin, ends = record.begin, record.ends or (() if tokenizer.ends == (tokenizer.eod,) else tokenizer.ends)
    tokenizer.known([*ends, *([] if begin is None else [begin])])
    facts |= {} if begin is None else {"bos_token_id": begin}
    facts |= {"eos_token_id": ends[0] if len(ends) == 1 else [*ends]} if ends else {}
    known = (link for link in links(spec, form.names) if link.ours.name not in record.missing)
    tensors = exported(known, Checkpointer(folder).weights(best))
    return Outgoing(facts, tensors, spec, tokenizer, begin, ends, record.chat_template)


def unexportable(model: ModelConfig) -> str:
    """Return why `transformers` has no such model; "" if it has."""
    try:
        _whole_form_of(model, "it")
    except InputError as error:
        return str(error)
    return ""


def _whole_form_of(model: ModelConfig, what: str | Path) -> HuggingFace:
    """Return what a model, called `what`, is at Hugging Face. InputError where not all of it has a name there."""
    kind, form = form_of(model, what)
    if name := unnamed(spec_of(model), form.names):
        raise InputError(f"{what} has {name}, for which Hugging Face's {kind} has no name")
    return form


def export_run(run: Path, out: Path, best: bool = True) -> int:
    """Write a folder that `transformers` loads, and return how many tensors it has. InputError for a model that
    `transformers` does not have.
    """
    facts, tensors, spec, tokenizer, begin, ends, template = outgoing(run, best)
    with durable.new_folder(out) as beside:
        shapes = {name: tensors.like(name) for name in tensors}
        write_file(beside / "model.safetensors", shapes, tensors.__getitem__, format="pt")
        durable.write(beside / "config.json", json.dumps(facts, indent=2).encode())
        write_tokenizer(tokenizer, spec, beside, begin, ends)
        if template:
            durable.write(beside / TEMPLATE, template.encode())
    return len(tensors)
