"""Which part of a parameter a rank holds: as the modules are cut, and for models that no module computes yet."""

from collections.abc import Iterator
from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch

from phalanx.config import ModelConfig
from phalanx.models import build
from phalanx.models.family import configured, spec_of
from phalanx.nn.model import Model
from phalanx.parallel import placement
from phalanx.parallel.mesh import Axis
from phalanx.parallel.tensor_parallel import shard
from phalanx.spec.leaves import Dim, Norm, Parameter
from phalanx.spec.model import MLP, WORDS, Attention, Block, Spec
from phalanx.spec.partition import Box, Ranks, obstacle, place, rows, shape, shared, stage, widened
from tests.spec.models import name, odd, presets

SLICED = {  # ends of names, and the dim that is split
    "qkv.weight": 0, "qkv.bias": 0, "out.weight": 1, "up.weight": 0, "up.bias": 0, "down.weight": 1,
    "token.weight": 0, "head.bias": 0, "decoder.bias": 0,
}  # fmt: skip


def on_meta(model: ModelConfig) -> Model:
    with torch.device("meta"):
        return build.make(model)


@pytest.mark.parametrize("model", [*odd()], ids=name)
@pytest.mark.parametrize("tp", [2, 4, 5])
def test_a_rank_of_a_gpt2_or_bert_holds_one_slice(model: ModelConfig, tp: int) -> None:
    """Rows of some weights and columns of others, by their names; of all else everything."""
    model = model.model_copy(update={"heads": 20, "ffn": 60})  # which all of these ranks can share
    spec = spec_of(model)
    assert obstacle(spec, tp) is None
    for rank in (0, tp - 1):
        for sequence in (False, True):
            built, ranks = on_meta(model), Ranks(tp, sequence, rank)
            shard(built, Axis(tp, rank), ranks)
            for parameter in spec.parameters():
                dim = next((dim for end, dim in SLICED.items() if parameter.name.endswith(end)), None)
                size, begin, whole = [*parameter.shape], [0] * len(parameter.shape), dim is None
                if dim is not None:
                    stored = parameter.dims[dim].stored  # a bias of the vocabulary follows the rows of the embedding
                    begin[dim] = stored // tp * rank
                    size[dim] = min(stored // tp, parameter.shape[dim] - begin[dim])
                lacks_terms = whole and sequence and parameter.name.startswith("transformer.")
                box = Box(tuple(size), (0,) * len(size), tuple(begin), tp if whole else 1, lacks_terms)
                assert [*place(parameter, ranks)] == [box], parameter
                assert built.get_parameter(parameter.name).shape == box.shape == shape(parameter, ranks)


@pytest.mark.parametrize("model", [*odd(), *presets()], ids=name)
def test_how_many_ranks_can_share_a_model(model: ModelConfig) -> None:
    """Those that divide the heads, the feed-forward layer and the padded vocabulary, and leave words to the last."""
    for tp in range(1, 33):
        sizes = (model.heads, model.ffn or 4 * model.hidden, model.padded_vocab)
        shared = not any(size % tp for size in sizes) and model.padded_vocab // tp * (tp - 1) < model.vocab
        assert shared == (obstacle(spec_of(model), tp) is None), tp


def test_the_obstacle_is_named() -> None:
    spec = spec_of(configured(family="gpt2", hidden=48, heads=6, vocab=100, pad_vocab_to=4))
    found = [obstacle(spec, tp) for tp in (3, 4)]
    assert [(each.parameter, each.pieces) for each in found if each] == [
        ("transformer.embeddings.token.weight", 100),
        ("transformer.blocks.0.attention.qkv.weight", 6),
    ]
    spec = spec_of(configured(family="gpt2", hidden=48, heads=6, vocab=100, pad_vocab_to=256))
    found = [obstacle(spec, 2)]
    assert [(each.dim.size, each.dim.padded, each.pieces) for each in found if each] == [(100, 256, 0)]


@pytest.mark.parametrize("model", [*odd()], ids=name)
@pytest.mark.parametrize("count", [2, 3])
def test_stages_share_out_the_model(model: ModelConfig, count: int) -> None:
    """Every parameter is in one stage, in order; a head that is tied to the words has a copy of them in the last."""
    spec, spread = spec_of(model), placement.assign_layers(spec_of(model), count)
    stages = [[p.name for p in stage(spec, number, spread).parameters()] for number in range(count)]
    assert (WORDS in stages[-1]) == spec.tied
    stages[-1] = [name for name in stages[-1] if name != WORDS]
    assert [name for names in stages for name in names] == [parameter.name for parameter in spec.parameters()]
    assert [*map(len, stages)].count(0) == 0


GROUPED = Attention(hidden=24, heads=8, kv_heads=2, width=5, causal=True, bias=(True, False))
GATED = MLP(hidden=24, width=24, activation="silu", gated=True, bias=False)

NORM = Norm(Dim("embed", 24), 1e-6, "rms", bias=False)
MODEL = Spec(24, 16, None, (Block(NORM, GROUPED, NORM, GATED),), NORM, ())


def parameters() -> Iterator[Parameter]:
    yield from GROUPED.parameters()
    yield from GATED.parameters()
    yield Parameter("words", "table", (Dim("vocab", 29, padded=32), Dim("embed", 6)))
    yield Parameter("bias", "bias", (Dim("vocab", 29, padded=32),))


@pytest.mark.parametrize("parameter", [*parameters()], ids=lambda parameter: parameter.name)
@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_boxes_cover_the_whole(parameter: Parameter, tp: int) -> None:
    """Each element is held by as many ranks as its boxes say, and what a rank holds is full of boxes."""
    held = np.zeros(parameter.shape)
    for rank in range(tp):
        ranks = Ranks(tp, rank=rank)
        here = np.zeros(shape(parameter, ranks), dtype=int)
        for box in place(parameter, ranks):
            held[box.global_slices] += 1 / box.alike
            here[box.local_slices] += 1
        assert (here == 1).all()
    np.testing.assert_allclose(held, 1)


def test_a_key_head_is_copied_where_there_are_more_ranks_than_key_heads() -> None:
    """Rank 3 of 4 has the last two queries of the second group, and that group's key and value, as rank 2 has."""
    qkv = next(GROUPED.parameters())
    first, *others = place(qkv, Ranks(4, rank=3))
    assert first == Box((10, 24), (0, 0), (30 + 10, 0))
    assert others == [
        Box((5, 24), (10, 0), (30 + 20, 0), alike=2, partial=True),
        Box((5, 24), (15, 0), (30 + 25, 0), alike=2, partial=True),
    ]


@pytest.mark.parametrize(("tp", "sizes"), [(1, []), (2, []), (4, [2]), (8, [4])])
def test_fewer_than_all_ranks_share_a_key_head(tp: int, sizes: list[int]) -> None:
    """Where all share the only one, they are tp itself."""
    assert shared(MODEL, tp) == sizes
    (block,) = MODEL.blocks
    single = replace(MODEL, blocks=(replace(block, attention=replace(GROUPED, kv_heads=1)),))
    assert shared(single, tp) == []


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_what_more_ranks_than_key_heads_hold_is_what_they_compute_with(tp: int) -> None:
    wide = replace(MODEL, blocks=tuple(widened(block, tp) for block in MODEL.blocks))
    assert wide.blocks[0].attention.kv_heads == max(tp, GROUPED.kv_heads)
    for held, computed in zip(MODEL.parameters(), wide.parameters(), strict=True):
        assert {shape(held, Ranks(tp, rank=rank)) for rank in range(tp)} == {shape(computed, Ranks(tp))}


def test_a_gated_layer_gives_each_rank_a_part_of_both() -> None:
    gate, up = place(next(GATED.parameters()), Ranks(3, rank=1))
    assert (gate.global_offset, gate.local_offset, up.global_offset, up.local_offset) == (
        (8, 0),
        (0, 0),
        (32, 0),
        (8, 0),
    )
    assert gate.shape == up.shape == (8, 24) and not gate.partial


def test_rows_of_boxes_are_those_of_a_sharded_optimizer() -> None:
    boxes = [*place(next(GATED.parameters()), Ranks(3, rank=1))]
    parts = [[*rows(boxes, 6 * number, 6)] for number in range(3)]
    assert [prod(box.shape) for part in parts for box in part] == [6 * 24, 2 * 24, 4 * 24, 4 * 24]
    assert parts[1] == [Box((2, 24), (0, 0), (14, 0)), Box((4, 24), (2, 0), (32, 0))]
