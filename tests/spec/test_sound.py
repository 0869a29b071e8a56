"""A description that does not hold together is refused by path and numbers; those of the package do hold together."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from phalanx import registry
from phalanx.errors import InputError
from phalanx.model_config import ModelConfig, section_of
from phalanx.models.family import configured, spec_of
from phalanx.section import shadowed
from phalanx.spec.leaves import Dim, Matrix, Norm, Table
from phalanx.spec.model import Head, Spec
from phalanx.spec.rope import Rope
from phalanx.spec.sound import flaw
from tests.spec.models import ODD, decoders, encoders, name, odd, presets

GPT2 = spec_of(configured(family="gpt2", **ODD))
BERT = spec_of(configured(family="bert", **ODD))
TUNED = spec_of(configured(family="bert", head="classes", classes=3, **ODD))
LLAMA = spec_of(configured(family="llama", kv_heads=1, width=6, **ODD))
EMBED, BLOCK = Dim("embed", 40), "transformer.blocks.0"


def block(part: str, **changed: Any) -> Spec:
    """A Llama of which a part of every block, or the block itself (""), is another."""
    [first] = set(LLAMA.blocks)
    other = replace(first, **({part: replace(getattr(first, part), **changed)} if part else changed))
    return replace(LLAMA, blocks=(other,) * 3)


def token(**changed: Any) -> Spec:
    assert LLAMA.embeddings
    return replace(LLAMA, embeddings=replace(LLAMA.embeddings, token=replace(LLAMA.embeddings.token, **changed)))


def position(rows: Dim) -> Spec:
    assert GPT2.embeddings
    return replace(GPT2, embeddings=replace(GPT2.embeddings, position=Table(rows, EMBED)))


def offset(rows: int) -> Spec:
    assert GPT2.embeddings
    return replace(GPT2, embeddings=replace(GPT2.embeddings, offset=rows))


def head(path: str = "head", spec: Spec = LLAMA, **changed: Any) -> Spec:
    """A model whose first head has another last leaf."""
    first = spec.heads[0]
    last = replace(first.chain[-1][1], **changed)
    return replace(spec, heads=(replace(first, chain=(*first.chain[:-1], (path, last))), *spec.heads[1:]))


def heads(spec: Spec, **changed: Any) -> Spec:
    return replace(spec, heads=(replace(spec.heads[0], **changed), *spec.heads[1:]))


FLAWS: list[tuple[Spec, str]] = [
    (head(outputs=Dim("vocab", 70, padded=80)), "head has 70 words, and transformer.embeddings.token has 77"),
    (head(outputs=Dim("vocab", 3, padded=80)), "head has 3 words"),
    (head(outputs=Dim("vocab", 177)), "head has 177 words"),
    (head(outputs=Dim("vocab", 77)), "head has 77 rows with padding, and transformer.embeddings.token has 80"),
    (head(outputs=Dim("classes", 77, padded=80)), "head's outputs lie along 'classes', and the embedding's rows"),
    (head(outputs=Dim("words", 77, padded=80)), "head lies along 'words'; known are classes, embed"),
    (head(inputs=Dim("embed", 20)), "head reads 20 numbers, and the model's hidden is 40"),
    (head("masked.decoder", BERT, tied="", inputs=Dim("transform", 41)), "and the outputs of masked.norm is 40"),
    (head(per="word"), "head.per is 'word', not 'token' or 'label' or 'sequence'"),
    (head(std=math.nan), "head.std is nan, not 0 or a positive number"),
    (head(std=-0.1), "head.std is -0.1"),
    (head(tied="transformer.embedding.token.weight"), "tied to transformer.embedding.token.weight, not to transformer"),
    (head("lm_head"), "a head for lm whose leaves are lm_head, not head"),
    (head("transformer.norm"), "a head for lm whose leaves are transformer.norm, not head"),
    (head("answer.last", TUNED), "leaves are answer.pooler, answer.last, not answer.pooler, answer.classifier"),
    (heads(LLAMA, chain=()), "heads.0.chain is empty: a head for lm"),
    (heads(LLAMA, chain=(("head", LLAMA.norm),)), "a head for lm whose leaf head is of type Norm, not Matrix"),
    (heads(LLAMA, activation="tanh"), "a head for lm with activation=tanh"),
    (heads(LLAMA, activation="relu"), "a head for lm with activation=relu"),
    (heads(LLAMA, activation="swish"), "heads.0.activation is 'swish', not 'gelu' or"),
    (heads(LLAMA, drop=0.1), "a head for lm with drop=0.1"),
    (heads(LLAMA, loss="lmm"), "a head for lmm, which is none of lm, mlm, nsp"),
    (heads(BERT, activation=""), "a head for mlm without an activation"),
    (heads(TUNED, activation="silu"), "a head for classes with activation='silu', not tanh or relu"),
    (replace(BERT, heads=(BERT.heads[0], replace(BERT.heads[1], activation="relu"))), "activation='relu', not tanh,"),
    (replace(LLAMA, heads=LLAMA.heads * 2), "head is the path of two leaves"),
    (replace(LLAMA, heads=()), "heads is empty, not a tuple of heads"),
    (replace(LLAMA, heads=(None,)), "heads.0 is None, not Head"),  # type: ignore[arg-type]
    (replace(BERT, heads=BERT.heads[1:]), "heads for nsp, not one over the vocabulary"),
    (replace(BERT, heads=(TUNED.heads[0], *BERT.heads)), "a head of fine-tuning beside others"),
    (heads(LLAMA, mean=True), "with mean=True, though it does not answer once for a sequence"),
    (replace(LLAMA, hidden=80), "transformer.embeddings.token.hidden is 40 wide, and the model's hidden is 80"),
    (replace(LLAMA, first=3), "first is 3, and a whole model begins with block 0"),
    (replace(GPT2, positions=7), "transformer.embeddings.position has 12 rows, and the model's positions are 7"),
    (replace(LLAMA, embeddings=None), "transformer.embeddings is None"),
    (replace(LLAMA, blocks=()), "transformer.blocks is empty"),
    (replace(LLAMA, blocks=None), "transformer.blocks is None"),  # type: ignore[arg-type]
    (replace(LLAMA, norm=Norm(EMBED, 1e-5, "batch")), "transformer.norm.kind is 'batch', not 'layer' or 'rms'"),  # type: ignore[arg-type]
    (replace(LLAMA, norm=Norm(Dim("embed", 42), 1e-5)), "transformer.norm is 42 wide, and the model's hidden is 40"),
    (position(Dim("position", 5)), "transformer.embeddings.position has 5 rows, and the model's positions are 12"),
    (offset(2), "transformer.embeddings.position has 12 rows, and the model's positions are 12, from row 2 on"),
    (offset(-1), "transformer.embeddings.offset is -1, not 0 or more"),
    (position(Dim("place", 12)), "transformer.embeddings.position.rows lies along 'place'; known are"),
    (token(rows=Dim("vocabulary", 77, padded=80)), "transformer.embeddings.token.rows lies along 'vocabulary'"),
    (token(rows=Dim("heads", 77, padded=80)), "transformer.embeddings.token.rows lies along 'heads', not 'vocab'"),
    (token(rows=Dim("vocab", 77, padded=70)), "has 77 rows, which are more than padded=70"),
    (token(rows=Dim("vocab", 0)), "transformer.embeddings.token.rows has size 0 along 'vocab'"),
    (token(hidden=Dim("embed", 20)), "transformer.embeddings.token.hidden is 20 wide"),
    (block("attention", hidden=80), f"{BLOCK}.attention.hidden is 80, and the model's hidden is 40"),
    (block("attention", kv_heads=3), f"{BLOCK}.attention.kv_heads=3 does not divide its heads=5"),
    (block("attention", kv_heads=0), f"{BLOCK}.attention.kv_heads is 0, not 1 or more"),
    (block("attention", stds=(0.1,)), f"{BLOCK}.attention.stds has 1 values, not 2"),
    (block("attention", drop=1.0), f"{BLOCK}.attention.drop is 1.0, not from 0 to less than 1"),
    (block("attention", rope=Rope(1e4, 8)), f"{BLOCK}.attention.rope.width is 8, not even and at most its width=6"),
    (block("attention", rope=Rope(0, 6)), f"{BLOCK}.attention.rope.theta is 0, not a positive number"),
    (block("attention", causal=False), "causal is False: a head for lm would see what it predicts"),
    (replace(BERT, blocks=GPT2.blocks), "causal is True: a head for mlm needs both sides of a token"),
    (replace(LLAMA, blocks=(*LLAMA.blocks[:2], *BERT.blocks[:1])), "blocks that look ahead beside blocks that do not"),
    (block("feed_forward", hidden=80), f"{BLOCK}.feed_forward.hidden is 80, and the model's hidden is 40"),
    (block("feed_forward", width=-4), f"{BLOCK}.feed_forward.width is -4, not 1 or more"),
    (block("feed_forward", width=106.7), f"{BLOCK}.feed_forward.width is 106.7, not a whole number"),
    (block("feed_forward", activation="swish"), f"{BLOCK}.feed_forward.activation is 'swish', not 'gelu' or"),
    (block("norm2", dim=Dim("embed", 42)), f"{BLOCK}.norm2 is 42 wide"),
    (block("norm1", dim=Dim("mlp", 40)), f"{BLOCK}.norm1 lies along 'mlp', not 'embed'"),
    (block("", feed_forward=None), f"{BLOCK}.feed_forward is None, not MLP"),
]


@pytest.mark.parametrize(("spec", "said"), FLAWS, ids=[said[:60] for _, said in FLAWS])
def test_what_is_wrong_is_said_by_path_and_numbers(spec: Spec, said: str) -> None:
    assert said in flaw(spec)


@pytest.mark.parametrize("model", [*odd(), *encoders(), *decoders(), *presets()], ids=name)
def test_all_models_of_the_package_are_sound(model: ModelConfig) -> None:
    assert flaw(spec_of(model)) == ""


def test_classes_may_be_counted_later() -> None:
    assert flaw(spec_of(configured(family="bert", head="classes", **ODD))) == ""


def test_heads_of_its_own_and_lists_of_blocks_are_sound() -> None:
    """What families from outside may do: no head is tied, no vocabulary padded, blocks differ and stand in a list."""
    narrow = replace(LLAMA.blocks[0], feed_forward=replace(LLAMA.blocks[0].feed_forward, width=13))
    words = Dim("vocab", 77)
    own = Head("lm", (("head", Matrix(EMBED, words, per="label")),))
    spec = replace(token(rows=words), heads=(own,), blocks=[narrow, *LLAMA.blocks[1:]], norm=None)  # type: ignore[arg-type]
    assert flaw(spec) == ""


class Config(ModelConfig):
    """What the network is: whatever a test says."""

    family: str = "tests.spec.test_sound:Family"
    described: Any = LLAMA
    """What spec() returns, or does."""

    def spec(self) -> Spec:
        found: Spec = self.described() if callable(self.described) else self.described
        return found


class Family:
    """A family from outside."""

    TASK, Config, PRESETS = "clm", Config, {}


def fails() -> None:
    raise ZeroDivisionError("division by zero")


@pytest.mark.parametrize(
    ("described", "said"),
    [
        (None, "spec() is to return a phalanx.spec.model.Spec, not NoneType"),
        (fails, "spec() raised ZeroDivisionError: division by zero; PHALANX_TRACEBACK=1 shows where"),
        (lambda: block("attention", heads="four"), f"its spec: {BLOCK}.attention.heads is 'four', not a whole number"),
        (lambda: replace(LLAMA, blocks=LLAMA.blocks[:1]), "transformer.blocks has 1 blocks, and model.layers=3"),
        (lambda: token(rows=Dim("vocab", 9)), "its spec: head has 77 words, and transformer.embeddings.token has 9"),
    ],
)
def test_a_family_is_told_in_one_line(described: Callable[[], Any] | None, said: str) -> None:
    model = Config(described=described, **ODD)
    with pytest.raises(InputError) as caught:
        spec_of(model)
    assert str(caught.value).startswith(f"model.family={Config.model_fields['family'].default}: ")
    assert said in str(caught.value)


def test_a_key_of_all_families_stays_what_it_is() -> None:
    """A family may say less than all texts, or whole numbers for real ones, and no more."""

    class Other(ModelConfig):
        """A key of another type."""

        heads: str = "four"  # type: ignore[assignment]

    class Method(ModelConfig):
        """A key that is a method."""

        def vocab(self) -> int:  # type: ignore[override]
            return 5

    assert shadowed(Other, ModelConfig) == "heads is str, which is int in every family; give it another name"
    assert shadowed(Method, ModelConfig).startswith("vocab is a function")
    assert section_of("tests.spec.test_sound:Family") is Config
    assert not any(shadowed(section_of(family), ModelConfig) for family in registry.MODELS.places)
