"""Megatron-LM's checkpoints of BERT and GPT-2: `mp_rank_XX/model_optim_rng.pt`, a file for each tensor-parallel rank.

Versions differ in the order of the rows of query_key_value. Version 0 has a rank's queries, then its keys, then its
values; version 1 lets the three alternate within a head; from version 2 on a head has its queries, keys and values
one after the other, which is the order here too. Biases and norms that every rank has are taken from the first.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from phalanx import durable
from phalanx.config import Config, DataConfig, ModelConfig
from phalanx.convert.imported import Imported, write_run
from phalanx.convert.linked import exported, imported
from phalanx.convert.megatron_files import FILES, TRACKER, files_of, flat_of, load, nested
from phalanx.data.tokenize import load_tokenizer
from phalanx.errors import InputError
from phalanx.foreign import complaint
from phalanx.models.bert import BertConfig
from phalanx.models.build import build
from phalanx.models.family import check, family, spec_of
from phalanx.models.gpt2 import GPT2Config, StackConfig
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from phalanx.run.import_record import ImportRecord
from phalanx.spec.links import Foreign, Link, Names, Order, Side, links
from phalanx.spec.model import Spec
from phalanx.spec.partition import Ranks

VERSION = 3.0  # that is written
MOST_PADDING = 8192  # rows that a rank adds to a vocabulary, at most: more are another vocabulary's

_POSITIONS = "language_model.embedding.position_embeddings"
_NAMES = Names(
    block="language_model.transformer.layers.{}.",
    blocks={
        "norm1": "input_layernorm",
        "attention.out": "attention.dense",
        "norm2": "post_attention_layernorm",
        "feed_forward.up": "mlp.dense_h_to_4h",
        "feed_forward.down": "mlp.dense_4h_to_h",
    },
    once={
        "transformer.embeddings.token": "language_model.embedding.word_embeddings",
        "transformer.embeddings.position": _POSITIONS,
        "transformer.embeddings.segment": "language_model.embedding.tokentype_embeddings",
        "transformer.norm": "language_model.transformer.final_layernorm",
    },
    heads={
        "mlm": {
            "masked.transform": "lm_head.dense",
            "masked.norm": "lm_head.layernorm",
            "masked.decoder.bias": "lm_head.bias",
        },
        "nsp": {"pair.pooler": "language_model.pooler.dense", "pair.classifier": "binary_head"},
    },
)
_SOURCES = {  # where a checkpoint has the sizes of its model
    "layers": "the layers with an input_layernorm", "hidden": "position_embeddings' width",
    "positions": "position_embeddings' rows", "heads": "args.num_attention_heads", "ffn": "args.ffn_hidden_size",
    "norm_eps": "args.layernorm_epsilon", "dropout": "args.hidden_dropout",
    "attention_dropout": "args.attention_dropout",
}  # fmt: skip


def import_folder(folder: Path, tokenizer: str, out: Path, seed: int = 0) -> Imported:
    """Make a run folder with the weights of a Megatron checkpoint, in fp32, as its checkpoint of step 0. Such
    checkpoints have no tokenizer: `tokenizer` names one. Heads that are not there are initialised by `seed`.
    InputError for a checkpoint that is damaged or not known here.
    """
    files = files_of(folder)
    parts = [load(file) for file in files]
    words = load_tokenizer(tokenizer)
    flat = [flat_of(part["model"], file) for part, file in zip(parts, files, strict=True)]
    model, version = _model_of(parts[0], flat[0], files[0], words.vocab)

    spec = spec_of(model)
    contents = _compared(folder, files, flat, spec, version)
    tensors = {f"{rank}/{name}": tensor for rank, part in enumerate(flat) for name, tensor in part.items()}
    parameters = imported(contents.links, tensors)

    spare: dict[str, Tensor] = {}
    if contents.missing:
        spare = build(model.model_copy(update={"layers": 1}), seed, torch.device("cpu")).state_dict()
    names = [parameter.name for parameter in spec.parameters()]
    shapes = {name: spare[name] if name in contents.missing else parameters.like(name) for name in names}

    def read(name: str) -> Tensor:
        return parameters[name] if name in parameters else spare[name]

    config = Config(task=family(model.family).TASK, model=model, data=DataConfig(sequence=model.positions))
    record = ImportRecord(source=f"megatron:{folder.resolve()}", missing=contents.missing)
    write_run(out, config, words.json(), shapes, read, record)
    return Imported(out, len(parameters), tuple(contents.missing), tuple(contents.unused))


class _Contents(NamedTuple):
    """The weights of a model that the ranks have: links to tensors by RANK/NAME, what is missing (our names, and the
    checkpoint's), and what of the first rank has no place.
    """

    links: list[Link]
    missing: dict[str, str]
    unused: list[str]


def _compared(
    folder: Path, files: Sequence[Path], parts: Sequence[Mapping[str, Tensor]], spec: Spec, version: float
) -> _Contents:
    """Compare what each rank has with its part of the model. A head may be missing. InputError for what else is missing
    or of another shape, and for ranks that do not divide the model.
    """
    if refused := _indivisible(spec, len(files)):
        raise InputError(f"{folder} has {len(files)} ranks, which do not divide {refused}")
    rows = _rows(files, parts, spec)
    read, missing, seen = list[Link](), dict[str, str](), set[Side]()
    for rank, (file, part) in enumerate(zip(files, parts, strict=True)):
        for link in links(spec, _names(version), Ranks(len(files), rank=rank), rows):
            name = link.theirs.name
            if name not in part and not rank and not link.ours.name.startswith("transformer."):
                missing[link.ours.name] = name
            if link.ours.name in missing:
                continue
            _check(file, name, part.get(name), link.theirs.shape, len(files))
            if link.ours not in seen:  # what all ranks have is taken from the first
                seen.add(link.ours)
                read.append(link._replace(theirs=link.theirs._replace(name=f"{rank}/{name}")))

    expected = {link.theirs.name for link in links(spec, _names(version))}
    return _Contents(read, missing, [name for name in parts[0] if name not in expected])


def _rows(files: Sequence[Path], parts: Sequence[Mapping[str, Tensor]], spec: Spec) -> int:
    """Return how many rows the vocabulary has over all ranks. They are padded by a number that no file holds: they must
    be enough, and no more than padding can be. InputError otherwise.
    """
    words = next(links(spec, _NAMES)).theirs  # the embedding comes first
    table = parts[0].get(words.name)
    if table is None:
        raise InputError(f"{files[0]} lacks the tensor {words.name}")
    rows, tokens = len(table) * len(files) if table.ndim else 0, words.shape[0]
    if not 0 <= rows - tokens < MOST_PADDING * len(files):
        raise InputError(f"{files[0]}: {words.name} has {rows} rows, the tokenizer {tokens} tokens; name its own")
    return rows


def _check(file: Path, name: str, part: Tensor | None, shape: tuple[int, ...], ranks: int) -> None:
    """Raise InputError unless a rank has its part of a tensor in plain floating point numbers."""
    if part is None:
        raise InputError(f"{file} lacks the tensor {name}")
    if not part.is_floating_point() or part.layout is not torch.strided or part.device.type != "cpu":
        raise InputError(f"{file}: {name} holds {part.dtype}, and weights are plain floating point numbers")
    if part.shape != shape:
        raise InputError(
            f"{file}: {name} is of the shape {[*part.shape]}, its args and {ranks} ranks make it {[*shape]}"
        )


def _indivisible(spec: Spec, tp: int) -> str:
    """Return what of a model so many ranks do not divide, or ""."""
    attention, mlp = spec.blocks[0].attention, spec.blocks[0].feed_forward
    if attention.heads % tp:
        return f"its {attention.heads} heads"
    return f"its feed-forward layers of {mlp.width}" if mlp.width % tp else ""


def _names(version: float) -> Names:
    """Return the names and orders of a version."""
    order: Order = "stacked" if version < 1 else "turns" if version < 2 else "same"
    qkv = Foreign("attention.query_key_value", order=order)
    return _NAMES._replace(blocks={**_NAMES.blocks, "attention.qkv": qkv})


def unexportable(model: ModelConfig) -> str:
    """Return why Megatron-LM has no such model; "" if it has."""
    if not isinstance(model, GPT2Config | BertConfig) or not model.norm_first:
        return "Megatron-LM has pre-LN GPT-2 and BERT (model.norm_first=true) and no others"
    spec = spec_of(model)
    if spec.tuned or spec.segments != 2 * (model.family == "bert"):
        what = f"a head (model.head={spec.tuned})" if spec.tuned else f"model.segments={spec.segments}"
        return f"Megatron-LM's own checkpoints are of pretraining, a BERT's with 2 segments; this has {what}"
    return ""


def export_run(run: Path, out: Path, tp: int = 1, best: bool = True) -> int:
    """Write a checkpoint that Megatron-LM loads as a release, over `tp` ranks; return how many files it has. InputError
    for sizes that do not divide and for models that Megatron-LM does not have.
    """
    folder = RunFolder.open(run)
    model = folder.config().model
    if reason := unexportable(model):
        raise InputError(f"{run}: {reason}")
    assert isinstance(model, StackConfig)
    spec = spec_of(model)
    if _indivisible(spec, tp):
        raise InputError(f"--tp {tp} does not divide model.heads={model.heads} and the feed-forward; use another")

    stored = Checkpointer(folder).weights(best)
    weights = {name: stored[name] for name in stored}
    rows = -(-model.vocab // (128 * tp)) * 128 * tp
    with durable.new_folder(out) as beside:
        for rank in range(tp):
            mine = exported(links(spec, _names(VERSION), Ranks(tp, rank=rank), rows), weights)
            file = beside / "release" / f"mp_rank_{rank:02d}" / FILES[0]
            file.parent.mkdir(parents=True)
            content = {
                "args": argparse.Namespace(**_args_of(model, rows, tp)), "checkpoint_version": VERSION, "iteration": 0,
                "model": nested(mine),
            }  # fmt: skip
            torch.save(content, file)
        (beside / TRACKER).write_text("release")
    return tp


class _Args(BaseModel):
    """The arguments of a checkpoint that describe its model, with the types that they must have."""

    num_attention_heads: int
    ffn_hidden_size: int | None = None
    layernorm_epsilon: float | None = None
    hidden_dropout: float | None = None
    attention_dropout: float | None = None
    bias_gelu_fusion: bool | None = None
    openai_gelu: bool = False


class _Beside(BaseModel):
    """The values of a checkpoint beside its weights and arguments."""

    checkpoint_version: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


def _model_of(part: Mapping[str, Any], flat: Mapping[str, Tensor], file: Path, vocab: int) -> tuple[StackConfig, float]:
    """Return the model by its arguments, and where these are silent by its tensors; and the version of the order of
    rows. InputError for a checkpoint that is no BERT and no GPT-2.
    """
    namespace = part.get("args")
    position = flat.get(f"{_POSITIONS}.weight")
    if position is None or position.ndim != 2:
        raise InputError(f"{file} has no language_model.embedding.position_embeddings: it is no BERT and no GPT-2")
    if not isinstance(namespace, argparse.Namespace) or getattr(namespace, "num_attention_heads", None) is None:
        raise InputError(f"{file} does not tell its number of attention heads (args.num_attention_heads)")

    bert = any(name.startswith(("lm_head.", "binary_head.")) or "tokentype" in name for name in flat)
    hidden = position.shape[1]

    try:
        args, values = _Args.model_validate(vars(namespace)), _Beside.model_validate(part)
        fused = bool(not bert if args.bias_gelu_fusion is None else args.bias_gelu_fusion) or args.openai_gelu
        dropouts = [0.1 if rate is None else rate for rate in (args.hidden_dropout, args.attention_dropout)]
        model = (BertConfig if bert else GPT2Config)(
            layers=sum(name.endswith("input_layernorm.weight") for name in flat),
            hidden=hidden, heads=args.num_attention_heads, positions=position.shape[0], vocab=vocab,
            ffn=args.ffn_hidden_size or 0, norm_first=True,
            norm_eps=args.layernorm_epsilon or 1e-5, gelu="tanh" if fused else "erf", dropout=dropouts[0],
            attention_dropout=dropouts[1],
        )  # fmt: skip
    except ValidationError as error:
        raise complaint(file, error, _SOURCES) from None
    try:
        check(model)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    return model, values.checkpoint_version


def _args_of(model: StackConfig, rows: int, tp: int) -> dict[str, Any]:
    tanh = model.gelu == "tanh"
    return {
        "num_layers": model.layers, "hidden_size": model.hidden, "num_attention_heads": model.heads,
        "ffn_hidden_size": model.ffn, "max_position_embeddings": model.positions,
        "padded_vocab_size": rows, "layernorm_epsilon": model.norm_eps, "hidden_dropout": model.dropout,
        "attention_dropout": model.attention_dropout, "bias_gelu_fusion": tanh, "openai_gelu": tanh,
        "tensor_model_parallel_size": tp, "pipeline_model_parallel_size": 1, "tokenizer_type": None,
    }  # fmt: skip
