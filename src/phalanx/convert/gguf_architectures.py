"""Architectures of GGUF as Hugging Face's model_types: facts of config.json out of facts of a file and back, and the
links between the tensors of both.

The names of tensors are the table of the package `gguf`, which is written by Hugging Face's names.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

from phalanx.convert.folder import Tensors
from phalanx.convert.gguf_rope import FACTORS, factors_of, scaling_facts, scaling_of
from phalanx.errors import InputError
from phalanx.foreign import short
from phalanx.models.hugging_face import FULL, SLIDING
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
_WINDOW, _PATTERN, _LOCAL = "attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa"


class Architecture(NamedTuple):
    """An architecture of GGUF.

    `kinds` are the model_types that are written as this one; a file is read as the first, and as the last if its layers
    have windows. `keys` has config.json's keys by the file's, which begin with the architecture's name there; `facts`
    is what holds of all its models.

    A matrix whose name ends in one of `interleaved` has rows that turn together, number i and i + width / 2 of a head,
    next to each other in the file; one that ends in one of `turned` is the other way round. Norms are stored with one
    added where they are `raised`. Of `period` layers that have windows the last sees everything, where the file does
    not say otherwise; 0 means that no layer has one. Layers with windows turn by a base of their own, and scores are
    scaled by a number of the model, if `local` (Gemma 3).
    """

    name: str
    kinds: tuple[str, ...]
    keys: Mapping[str, str] = _DECODER
    facts: Mapping[str, Any] = {}
    interleaved: tuple[str, ...] = ()
    turned: tuple[str, ...] = ()
    raised: bool = False
    period: int = 0
    local: bool = False


_INTERLEAVED = ("q_proj", "k_proj")
ARCHITECTURES = {
    each.name: each
    for each in (
        Architecture("llama", ("llama", "mistral"), interleaved=_INTERLEAVED),
        Architecture("qwen2", ("qwen2",)),
        Architecture("qwen3", ("qwen3",)),
        Architecture("smollm3", ("smollm3",), facts={"no_rope_layer_interval": 4}, interleaved=_INTERLEAVED),
        Architecture("olmo2", ("olmo2", "olmo3"), period=4),
        Architecture(
            "gemma3",
            ("gemma3_text",),
            facts={"hidden_activation": "gelu_pytorch_tanh"},
            raised=True,
            period=6,
            local=True,
        ),
        Architecture(
            "gpt2", ("gpt2",), _GPT2, {"activation_function": "gelu_new"}, turned=("c_attn", "c_proj", "c_fc")
        ),
    )
}


def read_facts(path: Path, facts: Mapping[str, Any], tensors: Tensors) -> tuple[Architecture, dict[str, Any]]:
    """Return what architecture the model of the file `path` has, and its config.json. InputError for what is not known
    here.
    """
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
    layers = config[architecture.keys["block_count"]]
    if type(layers) is int and layers > len(tensors):  # told before anything is made for each
        raise InputError(f"{path} promises {layers} layers and has {len(tensors)} tensors")
    if EMBEDDING in tensors:
        config["vocab_size"] = tensors.like(EMBEDDING).shape[0]
    config["tie_word_embeddings"] = OUTPUT not in tensors or architecture.keys is not _DECODER  # GPT-2 has it twice

    try:
        if architecture.keys is _DECODER:
            config |= _rope(own, config, tensors)
        if architecture.period:
            config |= _windows(architecture, own, config)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if left := [key for key in own if key not in _TOLD]:
        raise InputError(f"{path}: {name}.{left[0]}={short(own[left[0]])} is not known here")
    return architecture, config


def _one(value: Any) -> Any:
    """Return a value that is the same in each layer as one."""
    return value[0] if isinstance(value, list) and value and all(each == value[0] for each in value) else value


def _rope(own: dict[str, Any], config: dict[str, Any], tensors: Tensors) -> dict[str, Any]:
    """Return the facts of rotary positions and of the width of heads, and take them out of the file's `own` keys.
    InputError for positions in part of a head, and for values of another width than keys.
    """
    heads, hidden, width = (config[key] for key in ("num_attention_heads", "hidden_size", "head_dim"))
    if width is None and type(heads) is int and type(hidden) is int and heads > 0:
        width = hidden // heads
    for key in ("rope.dimension_count", "attention.value_length"):
        if (length := own.get(key, width)) != width:
            raise InputError(f"{key}={short(length)} is not known here: heads are {short(width)} wide")

    factors = tensors[FACTORS].float().tolist() if FACTORS in tensors else None
    return {"head_dim": width, "rope_scaling": scaling_of(own, factors, config, width) or None}


def _windows(architecture: Architecture, own: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of windows, and take them out of the file's `own` keys: which layers have one by a list, or by a
    period, of which the last has none. InputError for a pattern that is neither.
    """
    layers, window, pattern = config["num_hidden_layers"], own.pop(_WINDOW, 0), own.pop(_PATTERN, architecture.period)
    if type(pattern) is int and pattern > 0 and type(layers) is int:
        period = pattern
        pattern = [(number + 1) % period != 0 for number in range(layers)]
    if not isinstance(pattern, list):
        raise InputError(f"{architecture.name}.{_PATTERN}={short(pattern)} will not do: it is to be a number or a list")

    facts: dict[str, Any] = {}
    if architecture.local:
        # As llama.cpp has it: queries of the largest are scaled by another width than that of their heads.
        hidden, heads, largest = config["hidden_size"], config["num_attention_heads"], layers == 62
        facts["query_pre_attn_scalar"] = hidden // heads if largest else config["head_dim"]
        facts["rope_local_base_freq"] = own.pop(_LOCAL, 10_000.0)
    if window:
        types = [SLIDING if each else FULL for each in pattern]
        facts |= {"model_type": architecture.kinds[-1], "sliding_window": window, "layer_types": types}
    elif architecture.local:
        facts["layer_types"] = [FULL] * len(pattern)
    return facts


def write_facts(config: Mapping[str, Any]) -> tuple[Architecture, dict[str, Any], dict[str, list[float]]]:
    """Return the architecture of a config.json, the facts of its file, and tensors that are no parameters of the model.
    InputError for a model_type that has no architecture here.
    """
    kind = config["model_type"]
    architecture = next((each for each in ARCHITECTURES.values() if kind in each.kinds), None)
    if architecture is None:
        known = ", ".join(kind for each in ARCHITECTURES.values() for kind in each.kinds)
        raise InputError(f"a {kind} has no architecture of GGUF here; {known} have")

    facts = {key: config[theirs] for key, theirs in architecture.keys.items() if config.get(theirs) is not None}
    facts["vocab_size"] = config["vocab_size"]
    extra = dict[str, list[float]]()
    if architecture.keys is _DECODER:
        width = facts["attention.key_length"]
        rope = config.get("rope_scaling") or {}
        facts |= {"attention.value_length": width, "rope.dimension_count": width, **scaling_facts(rope)}
        if factors := factors_of(rope, facts["rope.freq_base"], width):
            extra[FACTORS] = factors
    if architecture.period and SLIDING in (types := config.get("layer_types") or []):
        facts |= {_WINDOW: config["sliding_window"]}
        if types != [FULL if (number + 1) % architecture.period == 0 else SLIDING for number in range(len(types))]:
            facts |= {_PATTERN: [each == SLIDING for each in types]}
    named = {f"{architecture.name}.{key}": value for key, value in facts.items()}
    return architecture, {"general.architecture": architecture.name, "general.type": "model", **named}, extra


def links_between(
    architecture: Architecture, config: Mapping[str, Any], shapes: Iterable[tuple[str, tuple[int, ...]]]
) -> Iterator[Link]:
    """Yield the link of each tensor, given by Hugging Face's name and its shape there, with that of a file.
    InputError for a name that the architecture has not.
    """
    number = next(number for number, name in MODEL_ARCH_NAMES.items() if name == architecture.name)
    names = get_tensor_name_map(number, config[architecture.keys["block_count"]])
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
