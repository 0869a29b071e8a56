"""A GGUF file written whole: facts, then tensors, of which one at a time is in memory."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.quants import quantize
from torch import Tensor

from phalanx import durable
from phalanx.convert.folder import Tensors
from phalanx.errors import InputError

TYPES = {
    "f32": LlamaFileType.ALL_F32, "f16": LlamaFileType.MOSTLY_F16, "bf16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
}  # fmt: skip
WHOLE = ("position_embd.weight", "rope_freqs.weight")  # which llama.cpp wants in fp32, as it does vectors


def write_gguf(path: Path, facts: Mapping[str, Any], tensors: Tensors, kind: str) -> None:
    """Write a file of the `tensors`, in fp32, as numbers of `kind`, one of TYPES: vectors as fp32, and as F16 what has
    rows that no blocks of Q8_0 fill. It is there whole or not at all. InputError where something is at `path`.
    """
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} is there already; give another file")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    types = {name: _type_of(name, tensors.like(name), kind) for name in tensors}

    writer = GGUFWriter(partial, facts["general.architecture"])
    try:
        writer.add_file_type(TYPES[kind])
        writer.add_quantization_version(2)
        for key, value in facts.items():
            if key != "general.architecture":  # the first, and there
                _add(writer, key, value)
        for name, type in types.items():
            like = tensors.like(name)
            block, size = GGML_QUANT_SIZES[type]
            writer.add_tensor_info(name, like.shape, np.dtype(np.float32), like.numel() // block * size, raw_dtype=type)

        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, type in types.items():
            writer.write_tensor_data(quantize(tensors[name].float().contiguous().numpy(), type))
        writer.flush()
        for file in writer.fout or ():
            os.fsync(file.fileno())
        writer.close()
        durable.rename(partial, path)
    except BaseException:
        writer.close()
        partial.unlink(missing_ok=True)
        raise


def _type_of(name: str, like: Tensor, kind: str) -> GGMLQuantizationType:
    """Return the type of a tensor's numbers in a file of `kind`."""
    if like.dim() < 2 or name in WHOLE:
        return GGMLQuantizationType.F32
    type = GGMLQuantizationType[kind.upper()]
    return type if like.shape[-1] % GGML_QUANT_SIZES[type][0] == 0 else GGMLQuantizationType.F16


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    """Add a fact: numbers have 32 bits, and a sign in lists, where llama.cpp has it."""
    kinds = {
        bool: GGUFValueType.BOOL, int: GGUFValueType.UINT32, float: GGUFValueType.FLOAT32, str: GGUFValueType.STRING,
    }  # fmt: skip
    if isinstance(value, list):
        kind = GGUFValueType.INT32 if type(value[0]) is int else kinds[type(value[0])]
        writer.add_key_value(key, value, GGUFValueType.ARRAY, kind)
    else:
        writer.add_key_value(key, value, kinds[type(value)])
