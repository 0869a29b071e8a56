"""Megatron-LM's checkpoints of BERT and GPT-2: `mp_rank_XX/model_optim_rng.pt`, a file for each tensor-parallel rank.

Versions differ in the order of the rows of query_key_value. Version 0 has a rank's queries, then its keys, then its
values; version 1 lets the three alternate within a head; from version 2 on a head has its queries, keys and values
one after the other, which is the order here too. Biases and norms that every rank has are taken from the first.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from phalanx import durable
from phalanx.config import Config, DataConfig, ModelConfig
from phalanx.convert.imported import Imported, write_run
from phalanx.convert.megatron_files import FILES, TRACKER, files_of, flat_of, load, nested
from phalanx.convert.names import pad_rows
from phalanx.data.tokenize import load_tokenizer
from phalanx.errors import InputError
from phalanx.foreign import complaint
from phalanx.models.build import build, make
from phalanx.models.family import check, family
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from phalanx.run.import_record import ImportRecord

VERSION = 3.0  # that is written
MOST_PADDING = 8192  # rows that a rank adds to a vocabulary, at most: more are another vocabulary's

_BLOCK = {
    "norm1": "input_layernorm",
    "attention.qkv": "attention.query_key_value",
    "attention.out": "attention.dense",
    "norm2": "post_attention_layernorm",
    "feed_forward.up": "mlp.dense_h_to_4h",
    "feed_forward.down": "mlp.dense_4h_to_h",
}
_ONCE = {
    "transformer.embeddings.token.weight": "language_model.embedding.word_embeddings.weight",
    "transformer.embeddings.position.weight": "language_model.embedding.position_embeddings.weight",
    "transformer.embeddings.segment.weight": "language_model.embedding.tokentype_embeddings.weight",
    "transformer.norm.weight": "language_model.transformer.final_layernorm.weight",
    "transformer.norm.bias": "language_model.transformer.final_layernorm.bias",
    "masked.transform.weight": "lm_head.dense.weight",
    "masked.transform.bias": "lm_head.dense.bias",
    "masked.norm.weight": "lm_head.layernorm.weight",
    "masked.norm.bias": "lm_head.layernorm.bias",
    "masked.decoder.bias": "lm_head.bias",
    "pair.pooler.weight": "language_model.pooler.dense.weight",
    "pair.pooler.bias": "language_model.pooler.dense.bias",
    "pair.classifier.weight": "binary_head.weight",
    "pair.classifier.bias": "binary_head.bias",
}
_TOLD = {  # where the sizes of a model are found there
    "layers": "the layers with an input_layernorm", "hidden": "position_embeddings' width",
    "positions": "position_embeddings' rows", "heads": "args.num_attention_heads", "ffn": "args.ffn_hidden_size",
    "norm_eps": "args.layernorm_epsilon", "dropout": "args.hidden_dropout",
    "attention_dropout": "args.attention_dropout",
}  # fmt: skip
# The dimension along which ranks share a tensor, by the end of its name there.
_SPLIT = {
    "word_embeddings.weight": 0,
    "lm_head.bias": 0,
    "query_key_value.weight": 0,
    "query_key_value.bias": 0,
    "attention.dense.weight": 1,
    "dense_h_to_4h.weight": 0,
    "dense_h_to_4h.bias": 0,
    "dense_4h_to_h.weight": 1,
}


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

    with torch.device("meta"):
        shapes = make(model).state_dict()
    theirs = {_name(name): name for name in shapes}
    found = {there: ours for there, ours in theirs.items() if there in flat[0]}
    missing = [ours for there, ours in theirs.items() if there not in found]
    if lacking := [name for name in missing if not name.startswith(("masked.", "pair."))]:
        raise InputError(f"{folder} lacks the tensor {_name(lacking[0])}")

    for there, ours in found.items():
        _check_parts(files, there, [part.get(there) for part in flat], [*shapes[ours].shape], model)
    joined = {ours: _joined(there, flat, model, version) for there, ours in found.items()}
    for name, tensor in joined.items():
        if name.endswith("token.weight"):
            joined[name] = pad_rows(tensor[: model.vocab], model)
        elif name == "masked.decoder.bias":
            joined[name] = tensor[: model.vocab]

    spare = build(model.model_copy(update={"layers": 1}), seed, torch.device("cpu")).state_dict() if missing else {}
    config = Config(task=family(model.family).TASK, model=model, data=DataConfig(sequence=model.positions))

    def read(name: str) -> Tensor:
        return joined[name].float().contiguous() if name in joined else spare[name]

    record = ImportRecord(source=f"megatron:{folder.resolve()}", missing={name: _name(name) for name in missing})
    write_run(out, config, words.json(), shapes, read, record)
    unused = [name for name in flat[0] if name not in theirs]
    return Imported(out, len(joined), tuple(missing), tuple(unused))


def _check_parts(
    files: Sequence[Path], name: str, parts: Sequence[Tensor | None], whole: list[int], model: ModelConfig
) -> None:
    """InputError unless every rank has its part of a tensor of the shape `whole`, in floating point numbers.

    The vocabulary's rows are padded there, to how many is not told: they must be enough.
    """
    dim = next((dim for end, dim in _SPLIT.items() if name.endswith(end)), None)
    padded = name.endswith(("word_embeddings.weight", "lm_head.bias"))
    for file, part in zip(files, parts, strict=True):
        if part is None:
            raise InputError(f"{file} lacks the tensor {name}")
        if not part.is_floating_point() or part.layout is not torch.strided or part.device.type != "cpu":
            raise InputError(f"{file}: {name} holds {part.dtype}, and weights are plain floating point numbers")
        expected = [*whole]
        if dim is not None:
            expected[dim] = len(part) if padded and part.ndim == len(whole) else whole[dim] // len(parts)
        if [*part.shape] != expected:
            raise InputError(
                f"{file}: {name} is of the shape {[*part.shape]}, its args and {len(parts)} ranks make it {expected}"
            )
    rows = sum(len(part) for part in parts if part is not None)
    if padded and not 0 <= rows - model.vocab < MOST_PADDING * len(parts):
        raise InputError(f"{files[0]}: {name} has {rows} rows, the tokenizer {model.vocab} tokens; name its own")


def export_run(run: Path, out: Path, tp: int = 1, best: bool = True) -> int:
    """Write a checkpoint that Megatron-LM loads as a release, over `tp` ranks; how many files. InputError for sizes
    that do not divide and for models that it has not."""
    folder = RunFolder.open(run)
    model = folder.config().model
    if model.family not in ("gpt2", "bert") or not model.norm_first:
        raise InputError(f"{run}: Megatron-LM has pre-LN GPT-2 and BERT (model.norm_first=true) and no others")
    if model.head or model.segments != 2 * (model.family == "bert"):
        what = f"a head (model.head={model.head})" if model.head else f"model.segments={model.segments}"
        raise InputError(
            f"{run} has {what}: Megatron-LM's own checkpoints are of pretraining, a BERT's with 2 segments"
        )
    if model.heads % tp or (model.ffn or 4 * model.hidden) % tp:
        raise InputError(f"--tp {tp} does not divide model.heads={model.heads} and the feed-forward; use another")
    weights = Checkpointer(folder).weights(best)
    rows = -(-model.vocab // (128 * tp)) * 128 * tp
    flat = {_name(name): _padded(name, weights[name], model.vocab, rows) for name in weights}
    with durable.new_folder(out) as beside:
        for rank in range(tp):
            mine = {name: _cut(name, tensor, tp, rank) for name, tensor in flat.items()}
            file = beside / "release" / f"mp_rank_{rank:02d}" / FILES[0]
            file.parent.mkdir(parents=True)
            content = {
                "args": argparse.Namespace(**_args_of(model, rows, tp)), "checkpoint_version": VERSION, "iteration": 0,
                "model": nested(mine),
            }  # fmt: skip
            torch.save(content, file)
        (beside / TRACKER).write_text("release")
    return tp


def _name(ours: str) -> str:
    """There, of a tensor here."""
    if ours in _ONCE:
        return _ONCE[ours]
    _, _, layer, rest = ours.split(".", 3)
    module, _, kind = rest.rpartition(".")
    return f"language_model.transformer.layers.{layer}.{_BLOCK[module]}.{kind}"


def _joined(name: str, parts: list[dict[str, Tensor]], model: ModelConfig, version: float) -> Tensor:
    """The whole of a tensor that ranks share, query_key_value in the order of version 3."""
    dim = next((dim for end, dim in _SPLIT.items() if name.endswith(end)), None)
    tensors = [part[name] for part in parts]
    if "query_key_value" in name:
        tensors = [_ordered(tensor, model, version) for tensor in tensors]
    return tensors[0] if dim is None else torch.cat(tensors, dim)


def _ordered(part: Tensor, model: ModelConfig, version: float) -> Tensor:
    """Put a rank's rows [heads × 3 × width, …] in order: by head, and within a head queries, keys, values."""
    width = model.hidden // model.heads
    rest = part.shape[1:]
    if version < 1.0:
        return part.view(3, -1, width, *rest).transpose(0, 1).reshape(part.shape)
    if version < 2.0:
        return part.view(-1, width, 3, *rest).transpose(1, 2).reshape(part.shape)
    return part


def _cut(name: str, tensor: Tensor, tp: int, rank: int) -> Tensor:
    dim = next((dim for end, dim in _SPLIT.items() if name.endswith(end)), None)
    return tensor if dim is None else tensor.chunk(tp, dim)[rank].clone()


def _padded(name: str, tensor: Tensor, vocab: int, rows: int) -> Tensor:
    if name not in ("transformer.embeddings.token.weight", "masked.decoder.bias"):
        return tensor
    kept = tensor[:vocab]
    return torch.cat([kept, kept.new_zeros(rows - vocab, *kept.shape[1:])])


class _Args(BaseModel):
    """What a checkpoint tells of its model, where it does, of the types that it must have."""

    num_attention_heads: int
    ffn_hidden_size: int | None = None
    layernorm_epsilon: float | None = None
    hidden_dropout: float | None = None
    attention_dropout: float | None = None
    bias_gelu_fusion: bool | None = None
    openai_gelu: bool = False


class _Told(BaseModel):
    """What stands beside the weights."""

    checkpoint_version: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


def _model_of(part: Mapping[str, Any], flat: Mapping[str, Tensor], file: Path, vocab: int) -> tuple[ModelConfig, float]:
    """The model by its arguments, and where they are not told by its tensors; the version of the order of rows."""
    found = part.get("args")
    position = flat.get(_ONCE["transformer.embeddings.position.weight"])
    if position is None or position.ndim != 2:
        raise InputError(f"{file} has no language_model.embedding.position_embeddings: it is no BERT and no GPT-2")
    if not isinstance(found, argparse.Namespace) or getattr(found, "num_attention_heads", None) is None:
        raise InputError(f"{file} does not tell its number of attention heads (args.num_attention_heads)")
    bert = any(name.startswith(("lm_head.", "binary_head.")) or "tokentype" in name for name in flat)
    hidden = position.shape[1]
    try:
        args, told = _Args.model_validate(vars(found)), _Told.model_validate(part)
        fused = bool(not bert if args.bias_gelu_fusion is None else args.bias_gelu_fusion) or args.openai_gelu
        dropouts = [0.1 if said is None else said for said in (args.hidden_dropout, args.attention_dropout)]
        model = ModelConfig(
            family="bert" if bert else "gpt2", layers=sum(name.endswith("input_layernorm.weight") for name in flat),
            hidden=hidden, heads=args.num_attention_heads, positions=position.shape[0], vocab=vocab,
            ffn=args.ffn_hidden_size or 4 * hidden, segments=2 if bert else 0, norm_first=True,
            norm_eps=args.layernorm_epsilon or 1e-5, gelu="tanh" if fused else "erf", dropout=dropouts[0],
            attention_dropout=dropouts[1],
        )  # fmt: skip
    except ValidationError as error:
        raise complaint(file, error, _TOLD) from None
    try:
        check(model)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    return model, told.checkpoint_version


def _args_of(model: ModelConfig, rows: int, tp: int) -> dict[str, Any]:
    tanh = model.gelu == "tanh"
    return {
        "num_layers": model.layers, "hidden_size": model.hidden, "num_attention_heads": model.heads,
        "ffn_hidden_size": model.ffn or 4 * model.hidden, "max_position_embeddings": model.positions,
        "padded_vocab_size": rows, "layernorm_epsilon": model.norm_eps, "hidden_dropout": model.dropout,
        "attention_dropout": model.attention_dropout, "bias_gelu_fusion": tanh, "openai_gelu": tanh,
        "tensor_model_parallel_size": tp, "pipeline_model_parallel_size": 1, "tokenizer_type": None,
    }  # fmt: skip
