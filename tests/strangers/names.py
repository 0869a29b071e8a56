"""The toy family with names at Hugging Face: `model.family=tests.strangers.names:NamedToy`."""

from collections.abc import Mapping

from phalanx.models.hugging_face import HuggingFace
from phalanx.spec.links import Names
from tests.strangers.families import Toy, ToyConfig

NAMES = Names(
    block="layers.{}.",
    blocks={
        "norm1": "mixer_norm",
        "attention.qkv": "mixer.{q,k,v}",
        "attention.out": "mixer.out",
        "norm2": "mlp_norm",
        "feed_forward.up": "mlp.{gate,up}",
        "feed_forward.down": "mlp.down",
    },
    once={
        "transformer.embeddings.token": "words",
        "transformer.embeddings.position": "places",
        "transformer.norm": "last_norm",
    },
    heads={"lm": {"head": "decoder"}},
)
KEYS = {
    "vocab": "vocab_size", "positions": "max_position", "hidden": "width", "layers": "depth", "heads": "heads",
    "kv_heads": "kv_heads", "ffn": "mlp_width", "norm_eps": "epsilon", "dropout": "dropout",
}  # fmt: skip


def why_not(model: ToyConfig) -> str:
    """Return why a model has no names there, or ""."""
    return "" if model.shape == "gated" else "has no gate (model.shape=plain), which every toy there has"


class NamedToy(Toy):
    """The toy, and what it is at Hugging Face: by model_type, the class, names, keys, and what no key says."""

    HUGGING_FACE: Mapping[str, HuggingFace] = {
        "toy": HuggingFace(
            NAMES, "ToyForCausalLM", KEYS, read=lambda facts: {"shape": "gated"},
            write=lambda model: {"activation": "silu"}, usual={"activation": "silu"}, why_not=why_not,
        )
    }  # fmt: skip
