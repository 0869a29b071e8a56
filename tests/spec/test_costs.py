"""Sums over the description of a model are what the planner has in closed forms: shapes, FLOPs, memory, messages."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from phalanx.config import Config, ModelConfig
from phalanx.models.family import spec_of, with_preset
from phalanx.parallel import division
from phalanx.parallel.mesh import Axis, Mesh
from phalanx.plan import flops, kernels, memory
from phalanx.plan.messages import Expected, Message
from phalanx.plan.portion import Portion
from phalanx.plan.work import Work
from phalanx.spec.costs import cached, collectives, flops_per_token, kinds, products, saved, scores
from phalanx.spec.model import Spec
from phalanx.spec.partition import Ranks, partial, shape, stage
from phalanx.train.lay_out import lay_out
from tests.spec.models import name, odd, presets

SMALL = {"layers": 8, "hidden": 64, "heads": 8, "ffn": 192, "vocab": 500, "positions": 128, "attention_dropout": 0}
FAMILIES = [("gpt2", "clm", True), ("bert", "mlm", True), ("bert", "mlm", False)]
TENSOR = [(1, True), (2, True), (2, False), (4, True), (4, False)]
PIPELINES = [(1, "1f1b", 1), (2, "1f1b", 1), (2, "interleaved", 2), (2, "zbv", 1), (4, "1f1b", 1)]


def layouts() -> Iterator[Config]:
    """Runs on many layouts, as the planner has them."""
    for family, task, first in FAMILIES:
        model = with_preset({"family": family, **SMALL, "norm_first": first})
        for tp, sequence in TENSOR:
            for pp, schedule, chunks in PIPELINES:
                for dtype, recompute in (("fp32", "none"), ("bf16", "block"), ("bf16", "attention")):
                    layout = {
                        "tp": tp, "sequence_parallel": sequence, "pp": pp, "dp": 1, "recompute": recompute,
                        "schedule": schedule, "chunks": chunks,
                    }  # fmt: skip
                    config = Config.model_validate({
                        "task": task, "model": model, "data": {"sequence": 128}, "precision": {"dtype": dtype},
                        "train": {"batch": 16, "device": "cpu", "compile": "off"}, "layout": layout,
                    })  # fmt: skip
                    yield lay_out(config, tp * pp)


LAYOUTS = [*layouts()]


def ranks_of(config: Config) -> Ranks:
    return Ranks(config.layout.tp, config.layout.sequence_parallel and config.layout.tp > 1)


def stages_of(config: Config, pp: int) -> list[Spec]:
    spread = division.spread(spec_of(config.model), division.stages_of(config.layout))
    return [stage(spec_of(config.model), number, spread) for number in division.numbers(config.layout, pp)]


@pytest.mark.parametrize("model", [*odd(), *presets()], ids=name)
def test_flops_as_they_are_published(model: ModelConfig) -> None:
    """6 a weight that multiplies, 12 × layers × hidden × sequence for attention (arXiv 2104.04473, appendix)."""
    if not model.head:
        block = 4 * model.hidden**2 + 2 * model.hidden * (model.ffn or 4 * model.hidden)
        weights = model.layers * block + model.vocab * model.hidden
        assert flops_per_token(spec_of(model), 512) == 6 * weights + 12 * model.layers * model.hidden * 512


def test_what_a_rank_holds() -> None:
    for config in LAYOUTS:
        ranks = ranks_of(config)
        for pp in range(config.layout.pp):
            held = {p.name: p for each in stages_of(config, pp) for p in each.parameters()}  # the words once
            for tp in range(ranks.tp):
                shapes = [(*shape(p, ranks._replace(rank=tp)), 1)[:2] for p in held.values()]
                assert shapes == Portion(config, pp, tp).shapes
            if ranks.sequence:
                mesh = Mesh(pp=Axis(config.layout.pp, pp), tp=Axis(ranks.tp, 0))
                lacking = sum(p.elements for p in held.values() if partial(p, ranks))
                assert lacking == Expected(config, mesh, []).positionwise


def test_flops_of_a_step() -> None:
    for config in LAYOUTS:
        spec, step = spec_of(config.model), replace(Work.of(config), vocab=config.model.vocab, labelled=1.0)
        within = scores(spec, step.sequence)
        dense = sum(each.flops for block in spec.blocks for each in products(block, 1))
        again = {"none": 0.0, "attention": within, "block": dense + within}[step.recompute]
        ours = step.batch * step.sequence * (flops_per_token(spec, step.sequence) + again)
        assert math.isclose(ours, step.flops(step.recompute), rel_tol=1e-14)
        assert sum(parameter.elements for parameter in spec.blocks[0].parameters()) == step.block_parameters


def test_products_of_a_block() -> None:
    for config in LAYOUTS:
        block = kernels.Block(Work.of(config))
        ours = products(spec_of(config.model).blocks[0], block.tokens, ranks=ranks_of(config))
        assert [(block.tokens, each.n, each.k) for each in ours] == [kernel.shape for kernel in block.products()]


def test_flops_of_every_stage() -> None:
    """With recompute, heads, and attention's scores once more in backward."""
    for config in LAYOUTS:
        layout, length, ranks = config.layout, config.data.sequence, ranks_of(config)
        positions = layout.micro_batch * length
        labels = round(positions * config.data.mask_fraction) if config.task == "mlm" else positions
        for pp in range(layout.pp):
            total = 0.0
            for each in stages_of(config, pp):
                made = {p.name: p.flops for p in products(each, positions, labels, layout.micro_batch, ranks)}
                dense = sum(count for name, count in made.items() if ".blocks." in name)
                qkv = sum(count for name, count in made.items() if name.endswith(".qkv"))
                inner = positions * scores(each, length) / ranks.tp
                again = {"none": 0.0, "attention": qkv + inner, "block": dense + inner}[layout.recompute]
                total += 3 * (sum(made.values()) + inner) + inner / 2 + again
            count = config.train.batch // layout.micro_batch
            assert math.isclose(count * total, flops.flops(config, pp), rel_tol=1e-12)


def test_memory_of_a_block() -> None:
    for config in LAYOUTS:
        rank, block = memory._Rank(config, 0, "cuda"), spec_of(config.model).blocks[0]
        tokens, weights = saved(block, ranks_of(config), rank.narrow)
        assert math.isclose(rank.positions * tokens + weights, rank.kept("none"), rel_tol=1e-12)
        tokens, weights = saved(block.feed_forward, ranks_of(config), rank.narrow)
        assert math.isclose(rank.positions * tokens + weights, rank.mlp(), rel_tol=1e-12)


def test_messages_of_a_block() -> None:
    """What one block more adds to a micro-batch, forward and backward, with and without sequence parallelism."""
    for config in LAYOUTS:
        if config.layout.pp > 1 or config.layout.recompute != "none":
            continue
        mesh, fewer = Mesh(tp=Axis(config.layout.tp, 0)), config.model.model_copy(update={"layers": 7})
        more, less = (Expected(c, mesh, [9]) for c in (config, config.model_copy(update={"model": fewer})))
        narrow = more.narrow
        messages = {  # forward and backward of each collective, and the bytes of an element
            "gather": (("all-gather", 4), ("reduce-scatter", 4)), "copy": (None, ("all-reduce", 4)),
            "scatter": (("reduce-scatter", narrow), ("all-gather", narrow)), "reduce": (("all-reduce", narrow), None),
        }  # fmt: skip
        forward, backward = Counter[Message](), Counter[Message]()
        for kind, elements in collectives(spec_of(config.model).blocks[0], ranks_of(config)):
            for message, counted in zip(messages[kind], (forward, backward), strict=True):
                if message:
                    counted[Message(message[0], "tp", more.positions * elements * message[1])] += 1
        assert (forward, backward) == (more.forward(9) - less.forward(9), more.backward(9) - less.backward(9))


def test_keys_and_values_that_generation_keeps() -> None:
    model = next(odd())
    assert cached(spec_of(model), 10) == 10 * model.layers * 2 * model.hidden
    assert [*kinds(spec_of(model)).values()] == [model.layers]


def test_half_of_the_keys_are_seen_by_a_causal_mask() -> None:
    spec = spec_of(next(odd()))
    assert scores(spec, 3, masked=True) == scores(spec, 3) * 2 / 3  # one, two and three keys, of three each
