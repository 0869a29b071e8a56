"""Keys of config.json that Llama and the decoders after it have in common, as keys of [model] and back.

Rotary positions have two forms there: `rope_parameters` of newer files, in some families one for each type of layer,
and `rope_theta` with `rope_scaling` of older ones. Windows are told by `layer_types` or by a rule of the family.
"""

from collections.abc import Callable
from typing import Any

from phalanx.errors import InputError
from phalanx.foreign import short
from phalanx.models.decoder import DecoderConfig
from phalanx.models.hugging_face import FULL, SLIDING, Facts
from phalanx.spec.links import Names
from phalanx.spec.rope import BOUNDS, yarn_magnitude

KEYS = {
    "vocab": "vocab_size", "positions": "max_position_embeddings", "hidden": "hidden_size",
    "layers": "num_hidden_layers", "heads": "num_attention_heads", "kv_heads": "num_key_value_heads",
    "width": "head_dim", "ffn": "intermediate_size", "norm_eps": "rms_norm_eps", "theta": "rope_theta",
    "tied": "tie_word_embeddings", "attention_dropout": "attention_dropout", "init_std": "initializer_range",
}  # fmt: skip
ABSENT = {  # by their classes, where a file lacks them
    "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "attention_dropout": 0.0, "initializer_range": 0.02,
}  # fmt: skip
USUAL = {
    "hidden_act": "silu", "partial_rotary_factor": 1.0, "quantization_config": None, "auto_map": None,
    "attention_bias": False, "is_causal": True,
}  # fmt: skip
_BLOCKS = {
    "attention.qkv": "self_attn.{q,k,v}_proj",
    "attention.out": "self_attn.o_proj",
    "attention.q_norm": "self_attn.q_norm",
    "attention.k_norm": "self_attn.k_norm",
    "feed_forward.up": "mlp.{gate,up}_proj",
    "feed_forward.down": "mlp.down_proj",
}
_ROPE_TYPES = "default", "linear", "llama3", "yarn"
_LOW_AND_HIGH = {"llama3": ("low_freq_factor", "high_freq_factor"), "yarn": ("beta_slow", "beta_fast")}
_ROPE = {  # keys of a section of rotary positions that are read
    "rope_theta", "rope_type", "type", "factor", "original_max_position_embeddings", "attention_factor", "mscale",
    "mscale_all_dim", *_LOW_AND_HIGH["llama3"], *_LOW_AND_HIGH["yarn"],
}  # fmt: skip
_USUAL_ROPE = {"partial_rotary_factor": 1.0, "truncate": True, "finetuned": True}


def names(*, within: str = "", **norms: str) -> Names:
    """Return the names of a decoder's tensors, in a larger model those that begin with `within`; `norms` are the names
    of a block's norms.
    """
    stem = f"{within}model."
    return Names(
        block=f"{stem}layers.{{}}.",
        blocks={**_BLOCKS, **norms},
        once={"transformer.embeddings.token": f"{stem}embed_tokens", "transformer.norm": f"{stem}norm"},
        heads={"lm": {"head": f"{within}lm_head"}},
        stem=stem,
        buffers=(".rotary_emb.inv_freq",),
    )


def section(facts: Facts) -> dict[str, Any]:
    """Return the keys of [model] that all families have, but for rotary positions and windows. Key heads that are null
    are as many as heads; a width that is null or absent is hidden / heads. InputError for others that are null.
    """
    for theirs in {*KEYS.values()} - {"num_key_value_heads", "head_dim", "rope_theta"}:
        if theirs in facts and facts[theirs] is None:
            raise InputError(f"{theirs} is null, and a value is needed")

    read = {ours: facts[theirs] for ours, theirs in KEYS.items() if facts.get(theirs) is not None}
    heads, hidden = read.get("heads"), read.get("hidden")
    read.setdefault("kv_heads", heads)
    if type(heads) is int and type(hidden) is int and heads > 0:
        read.setdefault("width", hidden // heads)
    return read


def rope(facts: Facts, theta: float = 10_000.0, layer_type: str = "") -> dict[str, Any]:
    """Return the keys theta and rope_ of [model] by both forms; in families whose layers differ, those of a type of
    layers. InputError for positions that are turned in another way, and for two forms that say different things.
    """
    newer = _rope_section(facts, "rope_parameters")
    if layer_type and newer:
        if strange := newer.keys() - {FULL, SLIDING}:
            raise InputError(f"rope_parameters has {short(min(strange))}, not {FULL} and {SLIDING} alone")
        newer = _rope_section(newer, layer_type)
    older = _rope_section(facts, "rope_scaling") if layer_type != SLIDING else {}

    for key in older.keys() & newer.keys():
        if older[key] != newer[key]:
            both = f"rope_scaling has {short(older[key])}, rope_parameters has {short(newer[key])}"
            raise InputError(f"{key} is said twice: {both}")
    if older and newer and (alone := (older.keys() ^ newer.keys()) - {"rope_theta"}):
        raise InputError(f"rope_scaling and rope_parameters stand beside each other, and only one has {min(alone)}")
    base = facts.get("rope_theta")
    return _rope_keys({"rope_theta": theta if base is None else base, **older, **newer}, facts)


def _rope_section(facts: Facts, key: str) -> dict[str, Any]:
    """Return what a key says of rotary positions, without what is null. InputError for what is not read here."""
    given = facts.get(key)
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise InputError(f"{key}={short(given)} will not do: it is to be an object, or null")

    said = {name: value for name, value in given.items() if value is not None}
    for name, value in said.items():
        by_type = isinstance(value, dict) and name in (FULL, SLIDING)
        if not by_type and name not in _ROPE and (name not in _USUAL_ROPE or value != _USUAL_ROPE[name]):
            raise InputError(f"rotary positions with {short(name)}={short(value)} are not known here")
    if "type" in said:
        said.setdefault("rope_type", said["type"])
        del said["type"]
    return said


def _rope_keys(said: dict[str, Any], facts: Facts) -> dict[str, Any]:
    """Return keys of [model] by one section of rotary positions."""
    if by_type := [name for name in (FULL, SLIDING) if name in said]:
        raise InputError(f"rotary positions with {by_type[0]!r}={short(said[by_type[0]])} are not known here")
    kind = said.get("rope_type", "default")
    if kind not in _ROPE_TYPES:
        known = ", ".join(_ROPE_TYPES)
        raise InputError(f"rotary positions of the type {short(kind)} (rope_type) are not known here; {known} are")
    if kind == "default":
        return {"theta": said["rope_theta"], "rope_scaling": "none"}

    positions = facts.get("original_max_position_embeddings", facts.get("max_position_embeddings"))
    original = said.get("original_max_position_embeddings", positions)
    if "factor" not in said:
        raise InputError(f"rotary positions of the type {kind!r} need a factor")
    low, high = _bounds(said, kind)
    if kind not in BOUNDS:
        original = 0
    elif type(original) is not int or original < 1:
        key = "original_max_position_embeddings"
        raise InputError(f"{key}={short(original)} will not do: it is to be a whole number greater than 0")
    factor = _number(said, "factor")
    return {
        "theta": said["rope_theta"], "rope_scaling": kind, "rope_factor": factor,
        "rope_original": original, "rope_low": low, "rope_high": high,
        "rope_magnitude": _magnitude(said, kind, factor),
    }  # fmt: skip


def _bounds(said: dict[str, Any], kind: str) -> tuple[float, float]:
    """Return rope_low and rope_high. InputError where the first is not less than the second."""
    if kind not in BOUNDS:
        return 0.0, 0.0
    keys = _LOW_AND_HIGH[kind]
    low, high = (_number({key: usual, **said}, key) for key, usual in zip(keys, BOUNDS[kind], strict=True))
    if low >= high:
        raise InputError(f"{keys[0]}={low:g} is not less than {keys[1]}={high:g}")
    return low, high


def _magnitude(said: dict[str, Any], kind: str, factor: float) -> float:
    """Return what cosines and sines are multiplied by: attention_factor, or what DeepSeek's two keys give."""
    if kind != "yarn":
        return 1.0
    if "attention_factor" in said:
        return _number(said, "attention_factor")
    if "mscale" in said and "mscale_all_dim" in said:
        above, below = (yarn_magnitude(factor, _number(said, key)) for key in ("mscale", "mscale_all_dim"))
        return above / below
    return yarn_magnitude(factor)


def _number(said: dict[str, Any], key: str) -> float:
    """Return a number greater than 0. InputError for anything else."""
    value = said[key]
    if type(value) not in (int, float) or not 0 < value < 1e9:
        raise InputError(f"{key}={short(value)} will not do: it is to be a number greater than 0")
    return float(value)


def written_rope(model: DecoderConfig) -> dict[str, Any]:
    """Return the section of config.json that says how a model's positions are turned, without its theta."""
    kind = model.rope_scaling
    if kind == "none":
        return {"rope_type": "default"}
    written: dict[str, Any] = {"rope_type": kind, "factor": model.rope_factor}
    if kind in BOUNDS:
        low, high = _LOW_AND_HIGH[kind]
        written |= {low: model.rope_low, high: model.rope_high}
        written["original_max_position_embeddings"] = model.rope_original
    if kind == "yarn":
        written["attention_factor"] = model.rope_magnitude
    return written


def both_forms(model: DecoderConfig, theta_of_windows: float | None = None) -> dict[str, Any]:
    """Return rotary positions for older and newer versions of transformers; where layers with a window have a theta of
    their own, and are not scaled, one for each type of layers.
    """
    full = written_rope(model)
    scaling = None if full == {"rope_type": "default"} else full
    parameters: dict[str, Any] = {**full, "rope_theta": model.theta}
    if theta_of_windows is not None:
        parameters = {FULL: parameters, SLIDING: {"rope_type": "default", "rope_theta": theta_of_windows}}
    return {"rope_scaling": scaling, "rope_parameters": parameters}


def windows(facts: Facts, rule: Callable[[int], str], unlike: bool = False) -> dict[str, Any]:
    """Return the keys window and window_layers of [model]: by layer_types, or by the pattern that the family's rule
    gives for so many layers. A window over all positions is none, unless layers that have one are `unlike` others in
    more. InputError for layers of another type, and for a window that is needed and not there.
    """
    layers, types = facts.get("num_hidden_layers"), facts.get("layer_types")
    pattern = _pattern_of(types, layers) if types is not None else rule(layers if type(layers) is int else 0)

    window, positions = facts.get("sliding_window"), facts.get("max_position_embeddings")
    if "1" not in pattern:
        return {"window": 0, "window_layers": "1"}
    if type(window) is not int or window < 1:
        raise InputError(f"sliding_window={short(window)} will not do: layers have one, and it is to be a whole number")
    if type(positions) is int and window >= positions and not unlike:
        return {"window": 0, "window_layers": "1"}
    return {"window": window, "window_layers": pattern}


def _pattern_of(types: Any, layers: Any) -> str:
    """Return layer_types as a pattern of layers with a window."""
    if not isinstance(types, list) or (type(layers) is int and len(types) != layers):
        raise InputError(f"layer_types={short(types)} will not do: it is to name the type of each layer")
    if other := [each for each in types if each not in (FULL, SLIDING)]:
        raise InputError(f"layer_types has {short(other[0])}: only {FULL} and {SLIDING} are known here")
    return shortest("".join("01"[each == SLIDING] for each in types))


def shortest(pattern: str, longest: int = 64) -> str:
    """Return the beginning of a pattern that gives it when repeated; one longer than `longest` is not sought."""
    begins = (pattern[:n] for n in range(1, min(len(pattern), longest + 1)) if pattern.startswith(pattern[n:]))
    return next(begins, pattern)


def layer_types(model: DecoderConfig) -> list[str]:
    """Return the type of each layer of a model, as config.json has it."""
    return [SLIDING if kind.windowed else FULL for kind in model.kinds()]


def without_rope(model: DecoderConfig, name: str) -> str:
    """Return why a model that does not turn queries and keys in some layers is no `name`, which does in all; "" for
    another.
    """
    if all(kind.rotary for kind in model.kinds()):
        return ""
    return f"has layers without rotary positions (model.rope_layers), which {name} has not"
