"""The outline of a model: every part of every preset stands in it, and what nobody has thought of yet too."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

import pytest

from phalanx.models.presets import presets
from phalanx.spec.leaves import Dim, Leaf, Matrix, Norm
from phalanx.spec.model import Block, Spec
from phalanx.spec.outline import cached, parameters_by_kind, rows
from phalanx.spec.parts import Layer, Part

PRESETS = presets()


@pytest.mark.parametrize("name", PRESETS)
def test_it_has_all_parameters_of_a_preset(name: str) -> None:
    spec = PRESETS[name]
    outline = [*rows(spec)]
    assert sum(row.parameters for row in outline if row.depth == 0) == spec.elements
    assert sum(row.parameters for row in outline if row.shape) == spec.elements
    assert sum(parameters_by_kind(spec).values()) == spec.elements
    leaves = dict(spec.leaves())
    assert all(row.path in leaves for row in outline if row.shape)
    assert sum(row.copies for row in outline if row.shape) == len(leaves)


def test_parts_are_named_with_their_settings_and_shapes() -> None:
    outline = {row.path: row for row in rows(PRESETS["llama/qwen2-0.5b"])}
    blocks, attention = outline["transformer.blocks.0"], outline["transformer.blocks.0.attention"]
    assert (blocks.name, blocks.copies, blocks.depth) == ("transformer.blocks.0-23 (x 24)", 24, 0)
    assert attention.what == "heads=14 kv_heads=2 width=64 causal rope(theta=1e+06 width=64)"
    qkv = outline["transformer.blocks.0.attention.qkv"]
    assert (qkv.what, qkv.shape, qkv.parameters) == ("q, k, v; bias", (1152, 896), 24 * 1152 * 897)
    head = outline["head"]
    assert (head.what, head.shape, head.parameters) == ("tied to transformer.embeddings.token.weight", (151936, 896), 0)


def test_a_window_says_on_which_sides_it_lies() -> None:
    """Of ModernBERT's 128 tokens half lie before a token; a decoder's window ends with the token itself."""
    settings = {name: " ".join(row.what for row in rows(PRESETS[name])) for name in ("modernbert/base", "gemma3/1b")}
    assert "window=64 to either side" in settings["modernbert/base"] and "window=65" not in settings["modernbert/base"]
    assert "window=512" in settings["gemma3/1b"] and "side" not in settings["gemma3/1b"]


def test_blocks_of_one_kind_are_one_row() -> None:
    spec = PRESETS["llama/smollm2-135m"]
    other = replace(spec.blocks[0], drop=0.5)
    mixed = replace(spec, blocks=tuple(other if n % 3 == 2 else spec.blocks[0] for n in range(12)))
    names = [row.name for row in rows(mixed) if "blocks" in row.path and row.depth == 0]
    assert names == ["transformer.blocks.0-1, 3-4, 6-7 and more (x 8)", "transformer.blocks.2, 5, 8 and more (x 4)"]


def test_the_cache_is_of_keys_and_values() -> None:
    assert cached(PRESETS["llama/3-8b"]) == 32 * 2 * 8 * 128
    assert cached(PRESETS["bert/base"]) == 0


@dataclass(frozen=True)
class Mixer(Layer):
    """A layer that is in no model yet, with a norm within."""

    width: int
    reach: int = 7
    usual: float = 1.0

    def parts(self) -> Iterator[tuple[str, Part | Leaf]]:
        embed = Dim("embed", self.width)
        yield "gate", Matrix(embed, embed, False)
        yield "inner_norm", Norm(embed, 1e-6, "rms")


def test_a_part_that_is_new_stands_there_by_itself() -> None:
    @dataclass(frozen=True)
    class Wider(Block):
        token_mixer: Mixer | None = None

        __hash__ = Block.__hash__

    old = PRESETS["llama/smollm2-135m"]
    block = old.blocks[0]
    held = {name: getattr(block, name) for name in ("norm1", "attention", "norm2", "feed_forward")}
    spec = cast(Spec, replace(old, blocks=(Wider(**held, token_mixer=Mixer(576, reach=9)),) * 2))

    outline = {row.path: row for row in rows(spec)}
    assert outline["transformer.blocks.0.token_mixer"].what == "width=576 reach=9"
    assert outline["transformer.blocks.0.token_mixer.gate"].parameters == 2 * 576**2
    kinds = Counter(parameters_by_kind(spec))
    assert kinds["token-mixer"] == 2 * 576**2 and kinds["norms"] == 576 * (2 * 3 + 1)
