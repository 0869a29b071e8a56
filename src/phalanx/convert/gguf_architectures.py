"""Architectures of GGUF as Hugging Face's model_types: facts of config.json out of facts of a file and back, and the
links between the tensors of both.

The names of tensors are the table of the package `gguf`, which is written by Hugging Face's names.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

from phalanx.convert.gguf_file import GgufFile
from phalanx.convert.gguf_rope import FACTORS, factors_of, scaling_facts, scaling_of
from phalanx.errors import InputError
from phalanx.foreign import short
from phalanx.spec.links import Link, Side, View

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"

_DECODER = {
    "context_length": "max_position_embeddings", "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers", "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim", "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}  # fmt: skip
_GPT2 = {
    "context_length": "n_positions", "embedding_length": "n_embd", "block_count": "n_layer",
    "feed_forward_length": "n_inner", "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}  # fmt: skip
# What llama.cpp takes where a file lacks a key, by config.json's key: a number, or another key's value.
_ABSENT = {"num_key_value_heads": "num_attention_heads", "rope_theta": 10_000.0, "head_dim": None}
# Keys of a file that say what tensors or other keys say too, or how the file came to be.
_TOLD = ("vocab_size", "tensor_data_layout", "rope.dimension_count", "attention.value_length", "rope.scaling.finetuned")


class Architecture(NamedTuple):
    """An architecture of GGUF.

    `kinds` are the model_types that are written as this one; a file is read as the first. `keys` has config.json's keys
    by the file's, which begin with the architecture's name there; `facts` is what holds of all its models. A matrix
    whose name ends in one of `interleaved` has rows that turn together, number i and i + width / 2 of a head, next to
    each other in the file; one that ends in one of `turned` is the other way round.
    """

    name: str
    kinds: tuple[str, ...]
    keys: Mapping[str, str] = _DECODER
    facts: Mapping[str, Any] = {}
    interleaved: tuple[str, ...] = ()
    turned: tuple[str, ...] = ()


ARCHITECTURES = {
    each.name: each
    for each in (
        Architecture("llama", ("llama", "mistral"), interleaved=("q_proj", "k_proj")),
        Architecture("qwen2", ("qwen2",)),
        Architecture(
            "gpt2", ("gpt2",), _GPT2, {"activation_function": "gelu_new"}, turned=("c_attn", "c_proj", "c_fc")
        ),
    )
}


def read_facts(file: GgufFile) -> tuple[Architecture, dict[str, Any]]:
    """Return what architecture a file's model has, and its config.json. InputError for what is not known here."""
    path, facts = file.path, file.facts
    if facts.get("split.count", 1) != 1:
        raise InputError(f"{path} is one of {short(facts['split.count'])} pieces; merge them: llama-gguf-split --merge")
    if (kind := facts.get("general.type", "model")) != "model":
        raise InputError(f"{path} holds no model: its general.type is {short(kind)}")
    name = facts.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise InputError(f"{path}: general.architecture={short(name)} is not known here; {known} are")

    architecture = ARCHITECTURES[name]
    own = {key.removeprefix(f"{name}."): value for key, value in facts.items() if key.startswith(f"{name}.")}
    config: dict[str, Any] = {"model_type": architecture.kinds[0], **architecture.facts}
    for key, theirs in architecture.keys.items():
        if key not in own and theirs not in _ABSENT:
            raise InputError(f"{path} has no {name}.{key}")
        usual = _ABSENT.get(theirs)
        config[theirs] = _one(own.pop(key, config.get(usual) if isinstance(usual, str) else usual))
    if EMBEDDING in file:
        config["vocab_size"] = file.like(EMBEDDING).shape[0]
    config["tie_word_embeddings"] = OUTPUT not in file or not _has_output(architecture)

    try:
        config |= _rope(own, config, file)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if left := [key for key in own if key not in _TOLD]:
        raise InputError(f"{path}: {name}.{left[0]}={short(own[left[0]])} is not known here")
    return architecture, config


def _has_output(architecture: Architecture) -> bool:
    """Return whether the model_type can have a head of its own: GPT-2's is the embedding again."""
    return architecture.keys is _DECODER


def _one(value: Any) -> Any:
    """Return a value that is the same in each layer as one."""
    return value[0] if isinstance(value, list) and value and all(each == value[0] for each in value) else value


def _rope(own: dict[str, Any], config: Mapping[str, Any], file: GgufFile) -> dict[str, Any]:
    """Return the facts of rotary positions, and take them out of the file's `own` keys. InputError for positions in
    part of a head, and for values of another width than keys.
    """
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    width = config.get("head_dim")
    if width is None and type(heads) is int and type(hidden) is int and heads > 0:
        width = hidden // heads
    for key in ("rope.dimension_count", "attention.value_length"):
        if (length := own.get(key, width)) != width:
            raise InputError(f"{key}={short(length)} is not known here: heads are {short(width)} wide")

    factors = file[FACTORS].float().tolist() if FACTORS in file else None
    scaling = scaling_of(own, factors, config, width)
    return {"rope_scaling": scaling} if scaling else {}


def write_facts(config: Mapping[str, Any]) -> tuple[Architecture, dict[str, Any], dict[str, list[float]]]:
    """Return the architecture of a config.json, the facts of its file, and tensors that are no parameters of the model.
    InputError for a model_type that has no architecture here.
    """
    kind = config["model_type"]
    architecture = next((each for each in ARCHITECTURES.values() if kind in each.kinds), None)
    if architecture is None:
        known = ", ".join(kind for each in ARCHITECTURES.values() for kind in each.kinds)
        raise InputError(f"a {kind} has no architecture of GGUF here; {known} have")
    if odd := [key for key, value in architecture.facts.items() if config.get(key) != value]:
        raise InputError(f"{odd[0]}={short(config.get(odd[0]))} is not known to GGUF's {architecture.name}")

    facts = {key: config[theirs] for key, theirs in architecture.keys.items() if config.get(theirs) is not None}
    facts["vocab_size"] = config["vocab_size"]
    extra = dict[str, list[float]]()
    if architecture.keys is _DECODER:
        width = facts.setdefault("attention.key_length", config["hidden_size"] // config["num_attention_heads"])
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        facts |= {"attention.value_length": width, "rope.dimension_count": width, **scaling_facts(rope)}
        if factors := factors_of(rope, facts["rope.freq_base"], width):
            extra[FACTORS] = factors
    return architecture, {f"{architecture.name}.{key}": value for key, value in facts.items()}, extra


def links_between(
    architecture: Architecture, config: Mapping[str, Any], shapes: Iterable[tuple[str, tuple[int, ...]]]
) -> Iterator[Link]:
    """Yield the link of each tensor, given by Hugging Face's name and its shape there, with that of a file.
    InputError for a name that the architecture has not.
    """
    number = next(number for number, name in MODEL_ARCH_NAMES.items() if name == architecture.name)
    layers = next(config[theirs] for key, theirs in architecture.keys.items() if key == "block_count")
    names = get_tensor_name_map(number, layers)
    for name, shape in shapes:
        there = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if there is None:
            raise InputError(f"GGUF's {architecture.name} has no name for {name}")
        ours, theirs = _views(architecture, config, name, shape)
        turned = theirs[:1] == (("transpose", 0, 1),)
        yield Link(Side(name, shape, ours), Side(there, shape[::-1] if turned else shape, theirs))


def _views(
    architecture: Architecture, config: Mapping[str, Any], name: str, shape: tuple[int, ...]
) -> tuple[View, View]:
    """Return the views of a tensor there and of one of a file in which both have the same numbers."""
    module = name.split(".")[-2]
    if module in architecture.turned and len(shape) == 2:
        return (), (("transpose", 0, 1),)
    if module in architecture.interleaved:
        heads = config["num_attention_heads" if module == "q_proj" else "num_key_value_heads"]
        half = shape[0] // heads // 2
        return (("unflatten", 0, (heads, 2, half)),), (("unflatten", 0, (heads, half, 2)), ("transpose", 1, 2))
    return (), ()
