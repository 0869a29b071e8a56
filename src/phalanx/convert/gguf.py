"""Models between a run folder and a GGUF file, which llama.cpp and its kin read: by Hugging Face's names, and with the
engine that converts these.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from phalanx.config import ModelConfig
from phalanx.convert.config_json import form_of, model_facts, model_of
from phalanx.convert.folder import Tensors
from phalanx.convert.gguf_architectures import links_between, read_facts, write_facts
from phalanx.convert.gguf_file import GgufFile
from phalanx.convert.gguf_rope import FACTORS
from phalanx.convert.gguf_tokenizer import special_facts, tokenizer_files
from phalanx.convert.gguf_vocabulary import tokenizer_facts
from phalanx.convert.gguf_writer import write_gguf
from phalanx.convert.huggingface import Elsewhere, FolderModel, import_folder, outgoing, read_folder
from phalanx.convert.imported import Imported
from phalanx.convert.linked import exported, imported
from phalanx.errors import InputError
from phalanx.foreign import short
from phalanx.models.family import described, spec_of
from phalanx.models.hugging_face import HuggingFace
from phalanx.run.folder import RunFolder
from phalanx.spec.compare import differences
from phalanx.spec.links import Link, links, second_names


def import_file(path: Path, out: Path) -> Imported:
    """Make a run folder with the weights of a GGUF file, dequantised to fp32, as its checkpoint of step 0. InputError
    for a file that is damaged or not known here.
    """
    with _as_folder(path) as (folder, elsewhere):
        return import_folder(folder, out, elsewhere=elsewhere)


def read_file(path: Path) -> FolderModel:
    """Read a GGUF file as `import_file` does, but for its weights, and compare those with the model."""
    with _as_folder(path) as (folder, elsewhere):
        return read_folder(folder, opened=lambda _: elsewhere.weights)


@contextmanager
def _as_folder(path: Path) -> Iterator[tuple[Path, Elsewhere]]:
    """Yield a folder of Hugging Face's with what a GGUF file says, and its weights under their names."""
    file = GgufFile(path)
    architecture, facts = read_facts(path, file.facts, file)
    facts |= special_facts(path, file.facts)
    try:
        config = json.dumps(facts, allow_nan=False)
    except ValueError:
        raise InputError(f"{path} has infinite numbers, or none, among its facts") from None

    with TemporaryDirectory(prefix="phalanx-") as temporary:
        folder = Path(temporary)
        special = {key: facts[key] for key in ("bos_token_id", "eos_token_id") if key in facts}
        (folder / "config.json").write_text(config)
        (folder / "generation_config.json").write_text(json.dumps(special))
        for name, content in tokenizer_files(path, file.facts).items():
            (folder / name).write_text(content)
        try:
            model, form = model_of(facts, folder / "config.json")
            shapes = _shapes(model, form)
            weights = imported(_present(links_between(architecture, facts, shapes.items()), file), file)
            lowered = _Changed(weights, -float(architecture.raised))
            yield folder, Elsewhere(lowered, f"gguf:{path.resolve()}")
        except InputError as error:
            message = str(error).replace(str(folder / "config.json"), str(path)).replace(str(folder), str(path))
            raise InputError(message) from None


def _shapes(model: ModelConfig, form: HuggingFace) -> dict[str, tuple[int, ...]]:
    """Return the shapes of Hugging Face's tensors."""
    spec = described(model)
    shapes = {link.theirs.name: link.theirs.shape for link in links(spec, form.names)}
    return shapes | {again: shapes[first] for again, first in second_names(spec, form.names).items()}


def _present(tensors: Iterator[Link], file: GgufFile) -> list[Link]:
    """Return the links of those tensors that the file has. InputError where one has another shape than the model, and
    where the file has one that the model has no place for: it may be of another kind.
    """
    present, left = list[Link](), dict.fromkeys(name for name in file if name != FACTORS)
    for link in tensors:
        name = link.theirs.name
        if name not in file:
            continue
        if (shape := file.stored[name].shape) != link.theirs.shape:
            wanted = [*link.theirs.shape]
            raise InputError(f"{file.path}: {name} has the shape {[*shape]}, by the other facts it has {wanted}")
        left.pop(name, None)
        present.append(link)
    if left:
        raise InputError(f"{file.path} has the tensor {short(next(iter(left)))}, which this kind of model has not")
    return present


class _Changed(Tensors):
    """Tensors by name: those whose names end in "norm.weight" with a number added, and `vectors` beside them."""

    def __init__(self, tensors: Tensors, add: float, vectors: Mapping[str, list[float]] | None = None) -> None:
        self.tensors, self.add = tensors, add
        self.vectors = {name: torch.tensor(values) for name, values in (vectors or {}).items()}

    def __getitem__(self, name: str) -> Tensor:
        if name in self.vectors:
            return self.vectors[name]
        return self.tensors[name] + self.add if name.endswith("norm.weight") else self.tensors[name]

    def like(self, name: str) -> Tensor:
        """Return a tensor's shape and type of numbers, on the meta device."""
        return self.vectors[name].to("meta") if name in self.vectors else self.tensors.like(name)

    def __contains__(self, name: object) -> bool:
        return name in self.vectors or name in self.tensors  # a Mapping's own would make the tensor

    def __iter__(self) -> Iterator[str]:
        return chain(self.vectors, self.tensors)

    def __len__(self) -> int:
        return len(self.vectors) + len(self.tensors)


def unexportable(model: ModelConfig) -> str:
    """Return why GGUF has no such model; "" if it has, whatever it has of tokenizers."""
    try:
        facts, (_, form) = model_facts(model), form_of(model, "it")
        shapes = {link.theirs.name: link.theirs.shape for link in links(spec_of(model), form.names)}
        list(links_between(write_facts(facts)[0], facts, shapes.items()))
    except InputError as error:
        return str(error)
    return ""


def export_run(run: Path, out: Path, kind: str = "f16", best: bool = True) -> int:
    """Write a run's model as a file of llama.cpp's, its matrices as numbers of `kind` (gguf_writer.TYPES), and return
    how many tensors it has. InputError for a model, or a tokenizer, that llama.cpp has not.
    """
    model = outgoing(run, best)
    try:
        architecture, facts, vectors = write_facts(model.facts)
        shapes = [(name, tuple(model.tensors.like(name).shape)) for name in model.tensors]
        pairs = list(links_between(architecture, model.facts, shapes))
        tensors = _Changed(exported(pairs, _Changed(model.tensors, float(architecture.raised))), 0.0, vectors)
        facts |= tokenizer_facts(model, model.facts["vocab_size"])
    except InputError as error:
        raise InputError(f"{run}: {error}") from None
    _check_same(run, facts, tensors)
    write_gguf(out, facts, tensors, kind)
    return len(tensors)


def _check_same(run: Path, facts: Mapping[str, Any], tensors: Tensors) -> None:
    """Raise InputError where the facts of a file would make another model of a run's weights than it is: there is no
    key for what differs, or llama.cpp reads none.
    """
    model = RunFolder(run).config().model
    architecture, config = read_facts(run, facts, tensors)
    again, _ = model_of(config, run)
    training = [key for key in type(again).model_fields if key.startswith("init") or key.endswith("dropout")]
    kept = {key: getattr(model, key) for key in (*training, "pad_vocab_to") if hasattr(model, key)}
    for difference in differences(again.model_copy(update=kept).spec(), model.spec()):
        raise InputError(f"{run} is no model of GGUF's {architecture.name}: there {difference}")
