"""The place of a family at Hugging Face: how its config.json is read and written, and what its tensors are called."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from phalanx.errors import InputError
from phalanx.foreign import short
from phalanx.heads.head import head_class
from phalanx.spec.links import Names

Facts = Mapping[str, Any]  # of config.json
FULL, SLIDING = "full_attention", "sliding_attention"  # types of layers, as layer_types has them
GELU = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "erf"}  # model.gelu by their name of an activation
INSIDE = {  # names of keys of [model] in sections of config.json, and of those without a place in `keys`
    "rope_scaling": "rope_type", "rope_factor": "factor", "rope_original": "original_max_position_embeddings",
    "rope_magnitude": "attention_factor", "window": "sliding_window",
}  # fmt: skip
ALIKE: Mapping[str, tuple[Any, Any]] = {  # a usual value, and another one that asks for the same
    "hidden_act": ("silu", "swish"), "partial_rotary_factor": (1.0, None), "auto_map": (None, {}),
}  # fmt: skip
ABSOLUTE = {  # of models with learned positions: what is computed here, in keys that could ask for something else
    "position_embedding_type": "absolute", "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False, "is_decoder": False, "add_cross_attention": False, "tie_word_embeddings": True,
}  # fmt: skip


def nothing(_: Any) -> str:
    """Return that there is no reason against a model."""
    return ""


@dataclass(frozen=True)
class HuggingFace:
    """One `model_type` of Hugging Face's, as the models of a family.

    `architecture` is its class there, of models with the heads of their pretraining. The class of a fine-tuned model is
    called `tuned` and then as its head is called there, and `pooler` is the tensor of its pooler; without `tuned` there
    are none. `apart` has the names of pooler and last product where a class has them otherwise, by what it is called
    behind `tuned`. In a larger model's config.json `inner` is the key under which the facts of this one stand.

    `keys` has config.json's keys by those of [model], for values that are the same there. `read` returns the other keys
    of [model]; `write` the other facts. Both may replace what `keys` gives, and `read` raises InputError for what no
    model here computes. `usual` has keys of config.json of which only one value is known here. `why_not` returns why a
    model of the family, given by its section, is not of this type: the end of a sentence that begins with the model, or
    "".
    """

    names: Names
    architecture: str
    keys: Mapping[str, str]
    read: Callable[[Facts], dict[str, Any]]
    write: Callable[[Any], dict[str, Any]]
    usual: Facts = field(default_factory=dict)
    why_not: Callable[[Any], str] = nothing
    tuned: str = ""
    pooler: str = ""
    apart: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    inner: str = ""

    def facts_inside(self, facts: Facts) -> Facts:
        """Return the facts of this model in those of the larger one, which count where it says nothing itself.
        InputError where there are none.
        """
        if not self.inner:
            return facts
        inside = facts.get(self.inner)
        if not isinstance(inside, dict):
            raise InputError(f"{self.inner}={short(inside)} will not do: it is to be an object, the text model's facts")
        return {**facts, **inside, "architectures": facts.get("architectures")}

    def with_head(self, head: str) -> "HuggingFace":
        """Return it as models with that head of fine-tuning are, by the head's name; as it is where that is "".
        InputError for a head that is not known there.
        """
        if not head:
            return self
        kind = head_class(head)
        if not self.tuned or not kind.hugging_face:
            raise InputError(f"the head {head} (model.head) has no name at Hugging Face")
        pooler, classifier = self.apart.get(kind.hugging_face, (self.pooler, kind.classifier))
        table = {**self.names.heads.get("answer", {}), "answer.pooler": pooler, "answer.classifier": classifier}
        names = self.names._replace(heads={**self.names.heads, head: table})
        return replace(self, names=names, architecture=self.tuned + kind.hugging_face)


def gelu_of(facts: Facts, key: str, usual: str) -> str:
    """Return model.gelu by the activation that config.json names under `key`. InputError for any other."""
    named = facts.get(key, usual)
    if not isinstance(named, str) or named not in GELU:
        raise InputError(f"{key}={short(named)} will not do: the activations known here are {', '.join(GELU)}")
    return GELU[named]


def name_of(gelu: str) -> str:
    """Return their name of the activation of model.gelu."""
    return next(theirs for theirs, ours in GELU.items() if ours == gelu)
