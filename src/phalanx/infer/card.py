"""A card of a model: what it is made of, what it costs, and what can be done with it, for a terminal or a program."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from phalanx.config import Config
from phalanx.convert.folder import Headers, Tensors, Weights
from phalanx.convert.huggingface import FolderModel, read_folder
from phalanx.convert.sources import gguf
from phalanx.errors import InputError
from phalanx.foreign import read_json
from phalanx.infer.uses import Uses, uses_of
from phalanx.models.family import family, spec_of
from phalanx.models.presets import preset_of
from phalanx.run.files import NAMES
from phalanx.run.folder import RunFolder
from phalanx.run.hub_models import has_weights, headers
from phalanx.run.import_record import ImportRecord, ModelSource
from phalanx.spec.costs import TRAINING, flops_per_token
from phalanx.spec.model import Spec
from phalanx.spec.outline import Row, cached, parameters_by_kind, rows, sizes
from phalanx.units import aligned

CACHED = 2  # bytes of an element of the cache in bf16


class Card(NamedTuple):
    """A model as a user calls it. `dtypes` has the types of its stored weights, by the path of the leaf, where there
    are some; `dtype` is the one that its config.json names.
    """

    name: str
    config: Config
    record: ImportRecord
    dtypes: Mapping[str, str] = {}
    dtype: str = ""

    @property
    def notes(self) -> Iterator[str]:
        """Lines about where it comes from, and what is not known of it."""
        source, commit = self.record.source, self.record.commit
        if self.config.model.vocab == 1:
            yield "its vocabulary is that of a tokenizer which is not known yet: it is drawn with one word"
        form = ModelSource.of(self.name).form
        if source and not form:
            yield f"imported from {source}{f' at commit {commit}' if commit else ''}"
        elif form == "hf" and not self.dtypes:
            yield "its weights are not here and were not asked for: which heads it lacks is not known"

    @property
    def spec(self) -> Spec:
        """The description of the model."""
        return spec_of(self.config.model)


def card_of(name: str) -> Card:
    """Return the card of a run, hf:FOLDER, a model of the hub, gguf:FILE or a preset. Of weights the headers alone are
    read, or downloaded. InputError where there is no such model, or where it cannot be taken.
    """
    source = ModelSource.of(name)
    if source.form == "hf":
        return _of_folder(name, source)
    if source.form == "gguf":
        found = gguf().read_file(source.folder)
        return Card(name, found.config, found.record)
    if source.form:
        raise InputError(f"{name}: make a run of it first: phalanx import {name} --out RUN")

    run = RunFolder(source.folder)
    if run.exists:
        config = run.config()
        stored = {row.path: NAMES[torch.float32] for row in rows(spec_of(config.model)) if row.shape}
        return Card(name, config, ImportRecord.read(run), stored)
    if (source.folder / "config.json").is_file():
        raise InputError(f"{name} is a folder of Hugging Face's, not a run; write hf:{name}")
    model = preset_of(name)
    return Card(name, Config(task=family(model.family).TASK, model=model), ImportRecord())


def _of_folder(name: str, source: ModelSource) -> Card:
    """Return the card of a Hugging Face folder, or of a model of the hub, of which the weights need not be here."""
    folder = source.local(weights=False)
    opened: Callable[[Path], Tensors] | None = Weights
    if source.hub and not has_weights(folder):
        entries = headers(source.hub, folder)
        opened = (lambda _: Headers(name, entries)) if entries else None
    try:
        found = read_folder(folder, opened=opened)
    except InputError as error:
        raise InputError(str(error).replace(str(folder), name) if source.hub else str(error)) from None
    facts = read_json(folder / "config.json")
    named = facts.get("dtype") or facts.get("torch_dtype")
    return Card(name, found.config, found.record, _dtypes(found), named if isinstance(named, str) else "")


def _dtypes(found: FolderModel) -> dict[str, str]:
    """Return the types of the numbers of a folder's weights by the paths of their leaves."""
    types: dict[str, str] = {}
    for link in found.contents.links:
        if found.weights is not None:
            path = link.ours.name.rpartition(".")[0]
            types.setdefault(path, NAMES[found.weights.like(link.theirs.name).dtype])
    return types


def facts(card: Card) -> dict[str, Any]:
    """Return the card as an object of JSON: counts are of parameters, tokens and FLOPs, `cache` is in bytes."""
    spec, model = card.spec, card.config.model
    forward = flops_per_token(spec, spec.positions) / TRAINING
    return {
        "model": card.name,
        "family": model.family,
        **sizes(spec),
        "dtype": card.dtype,
        "notes": [*card.notes],
        "kinds": parameters_by_kind(spec),
        "tree": [row._asdict() | {"dtype": card.dtypes.get(row.path, "")} for row in rows(spec)],
        "cache": CACHED * cached(spec),
        "flops": {"forward": forward, "training": TRAINING * forward},
        "uses": uses_of(card.name, card.config, card.record)._asdict(),
    }


def lines(card: Card) -> Iterator[str]:
    """Yield the card for a terminal."""
    spec = card.spec
    size = sizes(spec)
    kind = "decoder" if spec.causal else "encoder"
    yield (
        f"{card.name}: {kind}, {size['parameters']:,} parameters, {size['layers']} blocks of {size['hidden']:,}, "
        f"context {size['context']:,}, vocabulary {size['vocabulary']:,}{f', {card.dtype}' if card.dtype else ''}"
    )
    yield from card.notes
    yield ""
    yield from _tree(card)
    yield ""
    yield from _numbers(spec)
    yield ""
    yield from _used(uses_of(card.name, card.config, card.record))


def _tree(card: Card) -> list[str]:
    """Return a line for each part of a model, with its shape, the type of its weights, its parameters and its share."""
    whole, outline = card.spec.elements, [*rows(card.spec)]
    cells = [["", "shape", "type" if card.dtypes else "", "parameters", "share", ""]]
    for row, branch in zip(outline, _branches(outline), strict=True):
        shape = " x ".join(map(str, row.shape))
        dtype = card.dtypes.get(row.path, "")
        cells.append(
            [branch + row.name, shape, dtype, f"{row.parameters:,}", f"{row.parameters / whole:.1%}", row.what]
        )
    return aligned(cells, left=(0, 1, 2, 5), space="  ")


def _branches(outline: list[Row]) -> list[str]:
    """Return what is drawn before the name of each row of a tree."""
    drawn: list[str] = []
    open_below = set[int]()  # depths at which another row follows
    for row in reversed(outline):
        bars = "".join("│  " if depth in open_below else "   " for depth in range(1, row.depth))
        corner = "" if not row.depth else "├─ " if row.depth in open_below else "└─ "
        drawn.append(bars + corner)
        open_below = {depth for depth in open_below if depth < row.depth} | {row.depth}
    return drawn[::-1]


def _numbers(spec: Spec) -> Iterator[str]:
    """Yield the parameters by kind, the bytes of the cache and the FLOPs of a token."""
    whole, kinds = spec.elements, parameters_by_kind(spec)
    counts = [[f"  {kind}", f"{count:,}", f"{count / whole:.1%}"] for kind, count in kinds.items()]
    yield "Parameters"
    yield from aligned([*counts, ["  all", f"{whole:,}", ""]], left=(0,), space="  ")

    context = spec.positions
    if kept := CACHED * cached(spec):
        yield f"KV cache in bf16: {kept:,} bytes a token, {kept * context / 2**30:,.2f} GiB for {context:,} tokens"
    forward = flops_per_token(spec, context) / TRAINING / 1e9
    trained = TRAINING * forward
    yield f"FLOPs a token, of {context:,}: {forward:,.2f} G forward, {trained:,.2f} G forward and backward"


def _used(uses: Uses) -> Iterator[str]:
    """Yield what can be done with a model, and why the rest cannot."""

    def told(title: str, able: list[str], reasons: Mapping[str, str]) -> Iterator[str]:
        yield f"  {title:<10}{', '.join(able) or '–'}"
        for reason in dict.fromkeys(reasons.values()):
            names = [name for name, each in reasons.items() if each == reason]
            yield f"{'':<12}not {', '.join(names)}: {reason}"

    yield "What can be done with it here"
    yield from told("pretrain", [uses.pretrain], {})
    yield from told("tune", [*uses.tune], {})
    yield from told("use", [*uses.verbs, *(["serve"] if uses.verbs else [])], uses.refused)
    able = {name: found for name, found in uses.backends.items() if not isinstance(found, str)}
    unable = {name: found for name, found in uses.backends.items() if isinstance(found, str)}
    yield from told("backend", [f"{name} ({', '.join(found)})" for name, found in able.items()], unable)
    refused = {form: reason for form, reason in uses.exports.items() if reason}
    yield from told("export", [form for form in uses.exports if form not in refused], refused)
