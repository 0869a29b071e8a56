"""The [model] section: the keys of all families, and the way to the class of the family that a section names."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, NonNegativeFloat, PositiveFloat, ValidationError, model_validator

from phalanx import registry
from phalanx.errors import InputError
from phalanx.section import Fraction, Section, Size, shadowed

if TYPE_CHECKING:
    from phalanx.spec.model import Spec

FAMILY = "gpt2"  # where none is named

S = TypeVar("S", bound=Section)


class ModelConfig(Section):
    """What the network is."""

    # The keys that all families have. A family's own section is a subclass with its own keys, defaults and `spec`.
    family: str
    """Model family: gpt2, bert, roberta, xlm-roberta, distilbert, llama, qwen3, olmo, gemma3, or module:Name; `phalanx
    train --help model.family=NAME` lists its keys."""
    preset: str = ""
    """A named size of the family (124m, 355m, …; tiny, base, large, …); explicit keys override its values."""
    layers: Size = 12
    """Transformer blocks."""
    hidden: Size = 768
    """Width of the residual stream."""
    heads: Size = 12
    """Attention heads; must divide hidden, unless the family has a key for their width."""
    ffn: Annotated[int, Field(ge=0, le=1 << 24)] = 0
    """Width of the feed-forward layer; 0 takes the family's own: 4 × hidden in GPT-2 and BERT."""
    positions: Size = 1024
    """Longest sequence the position embeddings allow."""
    vocab: Annotated[int, Field(ge=0, le=1 << 30)] = 0
    """Tokens of the vocabulary; 0 takes it from the data's tokenizer."""
    pad_vocab_to: Size = 128
    """The embedding's rows are padded to a multiple of this, whatever the layout."""
    norm_eps: PositiveFloat = 1e-5
    """Epsilon of the norms."""
    dropout: Fraction = 0.1
    """Dropout after the embeddings and after each sub-layer."""
    attention_dropout: Fraction = 0.0
    """Dropout of the attention probabilities; above 0 it takes the slower math path, exact on every layout."""
    init_std: PositiveFloat = 0.02
    """Standard deviation of the initial weights, before init_cut."""
    init_cut: NonNegativeFloat = 0.0
    """Initial weights are drawn within so many deviations (OLMo 2: 3, ModernBERT: 2); 0: from the whole normal."""
    init_residual: Literal["scaled", "same"] = "scaled"
    """Of what adds to the residual stream: init_std / sqrt(2 × layers), as GPT-2, or the same, as HF's Llama."""
    init_head: Literal["same", "width"] = "same"
    """Of a head's own weight over the vocabulary: init_std, or 1 / sqrt(hidden), as torchtitan's Llama."""

    @model_validator(mode="after")
    def _definite(self) -> Self:
        """Give `ffn` its value, so that nobody after this asks what 0 means."""
        if not self.ffn:
            object.__setattr__(self, "ffn", self.default_ffn)  # frozen for all others; nobody has seen it yet
        return self

    @property
    def default_ffn(self) -> int:
        """Width of the feed-forward layer where no key says it."""
        return 4 * self.hidden

    @property
    def stds(self) -> tuple[float, float]:
        """Deviations of the initial weights of what reads the residual stream, and of what adds to it."""
        ways = 2 * self.layers if self.init_residual == "scaled" else 1
        return self.init_std, self.init_std / math.sqrt(ways)

    @property
    def head_std(self) -> float:
        """Deviation of the initial weights of a head over the vocabulary."""
        return self.init_std if self.init_head == "same" else 1 / math.sqrt(self.hidden)

    @property
    def usual_vocab(self) -> int:
        """Tokens that published models of this section have, for plans without `vocab` and data; 0: none is usual."""
        return 0

    @property
    def padded_vocab(self) -> int:
        """Rows of the token embedding: the vocabulary rounded up, the same for every layout."""
        return -(-self.vocab // self.pad_vocab_to) * self.pad_vocab_to

    def spec(self) -> "Spec":
        """Return the description of the model that this section configures. Ask `spec_of`, which keeps it."""
        raise InputError(f"model.family={self.family}: its Config has no spec(), which describes the model")

    def check(self) -> None:
        """Raise InputError for sizes that no model of the family can have."""
        if self.hidden % self.heads:
            fits = [n for n in range(1, self.hidden // 16 + 1) if self.hidden % n == 0]
            near = sorted(fits, key=lambda n: abs(n - self.heads))[:4]
            choice = ", ".join(map(str, sorted(near))) or "1"
            raise InputError(f"model.heads={self.heads} does not divide model.hidden={self.hidden}; use {choice}")

    def tuned(self, head: str, classes: int | None = None) -> Self:
        """Return the section with a head of fine-tuning (the name of one of registry.HEADS, or "module:Name"), or with
        those of pretraining ("").

        `classes` is the number of its classes or candidates, by default what the section says. InputError for a family
        that has no such heads.
        """
        if head:
            raise InputError(f"the head {head} is none that model.family={self.family} has; use model.family=bert")
        return self


def named(section: Mapping[str, Any], key: str, otherwise: str) -> str:
    """Return whose section it is, where that is a text; what is none is refused with the section."""
    name = section.get(key, otherwise)
    return name if isinstance(name, str) else otherwise


def model_section(keys: Mapping[str, Any]) -> ModelConfig:
    """Return a [model] section with these keys, validated by the class of its family."""
    family = named(keys, "family", FAMILY)
    return validated(section_of(family), keys, "model", family)


def validated(section: type[S], keys: Mapping[str, Any], where: str, name: str) -> S:
    """Return a section, which `name` owns, with these keys. InputError for a validator from outside that breaks, and
    for a value that could change.
    """
    owner, wrong = {"model": "model.family", "optim": "optim.name"}[where], None
    with registry.blamed(owner, name, f"a validator of its [{where}]"):
        try:
            made = section.model_validate(keys)
        except ValidationError as error:  # about a key, and told by it
            wrong = error
    if wrong:
        raise wrong

    for key in section.model_fields:
        if (kind := getattr(made, key).__class__).__hash__ is None:
            raise InputError(f"{owner}={name}: {where}.{key} is a {kind.__name__}, which could change; use a tuple")
    return made


def section_of(family: str) -> type[ModelConfig]:
    """Return the class of a family's [model] section. InputError where there is no such family."""
    section = registry.MODELS.find(family).Config
    if not (isinstance(section, type) and issubclass(section, ModelConfig)):
        raise InputError(f"model.family={family}: its Config is no subclass of phalanx.config.ModelConfig")
    if reason := shadowed(section, ModelConfig):
        raise InputError(f"model.family={family}: its Config's key {reason}")
    return section
