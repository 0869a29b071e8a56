"""Parameters of which a rank holds several boxes: gated layers, and key heads that fewer share than there are ranks.

What a rank should hold is cut by hand here from the weights and gradients of one process. Mistakes made on purpose show
that the checks bite.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from phalanx.models.family import spec_of
from phalanx.nn.init import initialise
from phalanx.nn.model import Model
from phalanx.parallel import mesh
from phalanx.parallel.layout import Layout
from phalanx.parallel.mesh import Axis, make_mesh
from phalanx.parallel.parameters import Parameters
from phalanx.run import shards, storage
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from phalanx.spec import partition
from phalanx.spec.leaves import Parameter
from phalanx.spec.partition import Box, Ranks
from phalanx.train import state
from tests.batches import batch_of
from tests.layouts.curves import TINY
from tests.layouts.pool import Pool
from tests.train.runs import Corpus

HEADS, WIDTH = 4, 8

# ranks, key heads of the model, and the layout
CASES = {
    "tp4, a key head for two": (4, 2, ["layout.tp=4"]),
    "tp4, a key head for two, whole stream": (4, 2, ["layout.tp=4", "layout.sequence_parallel=false"]),
    "tp4, a key head for all": (4, 1, ["layout.tp=4"]),
    "dp2 tp2": (4, 2, ["layout.tp=2"]),
    "zero3 tp2": (4, 2, ["layout.tp=2", "layout.shard=zero3"]),
    "zero3 tp2, a key head for all": (4, 1, ["layout.tp=2", "layout.shard=zero3"]),
    "zero3 tp4, a key head for two": (8, 2, ["layout.tp=4", "layout.shard=zero3"]),
}


def made(folder: Path, key_heads: int, words: list[str]) -> Layout:
    """A GPT-2 with gated layers and so many key heads, laid out."""
    processes = dist.get_world_size() if dist.is_initialized() else 1
    config = Corpus(folder).config("gpt", *TINY, *words, processes=processes)
    spec = spec_of(config.model)
    blocks = [
        replace(
            block,
            attention=replace(block.attention, kv_heads=key_heads),
            feed_forward=replace(block.feed_forward, gated=True),
        )
        for block in spec.blocks
    ]
    spec = replace(spec, blocks=tuple(blocks))
    return Layout(config, make_mesh(config.layout, torch.device("cpu"), spec), spec, lambda module: None)


def cut(name: str, whole: Tensor, key_heads: int, ranks: Ranks) -> Tensor:
    """What a rank should hold of a parameter before it is sharded."""
    tp, rank, module = ranks.tp, ranks.rank, name.split(".")[-2]
    if module == "up":
        return torch.cat([half.chunk(tp)[rank] for half in whole.chunk(2)])
    if module == "qkv":
        groups = whole.view(key_heads, HEADS // key_heads + 2, WIDTH, *whole.shape[1:])  # of each: queries, key, value
        ways = max(1, tp // key_heads)
        mine = groups.chunk(tp // ways)[rank // ways]
        return torch.cat([mine[:, :-2].chunk(ways, 1)[rank % ways], mine[:, -2:]], 1).flatten(0, 2)
    if name.endswith(("out.weight", "down.weight")):
        return whole.chunk(tp, 1)[rank]
    return whole.chunk(tp)[rank] if module == "token" else whole


def rows(tensor: Tensor, layout: Layout) -> Tensor:
    """Those that `fully_shard` leaves a rank."""
    if not layout.sharded:
        return tensor
    axis, size = layout.mesh.shards, -(-len(tensor) // layout.mesh.shards.size)
    return tensor[size * axis.rank : size * (axis.rank + 1)]


def values(parameter: Parameter) -> Tensor:
    """A whole parameter whose elements differ."""
    count = torch.arange(float(torch.Size(parameter.shape).numel()))
    return torch.sin(count + len(parameter.name)).view(parameter.shape)


def failures(layout: Layout, key_heads: int) -> set[str]:
    """Of first weights, wholes, parts, gradients, norms and their sum those that are wrong."""
    parameters, ranks, wrong = layout.parameters, layout.ranks, set[str]()
    first = Model(layout.spec)
    initialise(first, layout.config.train.seed)
    for name, parameter in first.named_parameters():
        tensor, start = layout.locals[name].tensor, parameter.detach()
        if not torch.equal(tensor, rows(cut(name, start, key_heads, ranks), layout)):
            wrong.add("first weights")
        if not torch.equal(parameters.whole(name, tensor.detach()), start):
            wrong.add("whole")
        if not torch.equal(parameters.part(name, start), tensor):
            wrong.add("part")

    tokens = torch.arange(8 * 32).view(8, 32) * 7 % 300
    batch, each = batch_of(tokens, 32, labels=tokens * 5 % 300), 8 // layout.mesh.dp.size
    first(batch)["lm"].backward()
    mine = batch.rows(each * layout.mesh.dp.rank, each * (layout.mesh.dp.rank + 1))
    layout.backward([layout.local_batch(mine)], lambda sums: sums["lm"])

    whole = {name: p.grad for name, p in first.named_parameters() if p.grad is not None}
    part = {name: rows(cut(name, grad, key_heads, ranks), layout).clone() for name, grad in whole.items()}
    for name, expected in part.items():
        tensor = layout.locals[name].tensor
        assert tensor.grad is not None
        if (tensor.grad - expected).abs().max() > 1e-4 * whole[name].abs().max():
            wrong.add("gradients")
        tensor.grad = expected
    for name, norm in parameters.norms(part).items():
        if not torch.allclose(norm, whole[name].norm()):
            wrong.add("norms")
    square = parameters.square()
    dist.all_reduce(square)
    if not torch.allclose(square, torch.stack([grad.square().sum() for grad in whole.values()]).sum()):
        wrong.add("square")
    return wrong


def norms_without_alike(patch: pytest.MonkeyPatch) -> None:
    """Every rank counts all that it holds."""
    patch.setattr(Parameters, "_square", lambda self, name, tensor, replicas=1: tensor.norm().square() / replicas)


def sums_over_all_of_tp(patch: pytest.MonkeyPatch) -> None:
    """Gradients of what two neighbours share are summed over all four."""
    patch.setattr(mesh, "_neighbours", lambda size: Axis(size, dist.get_rank() % size, dist.group.WORLD))


def sums_taken_twice(patch: pytest.MonkeyPatch) -> None:
    """A key head for all counts as one that fewer share."""
    patch.setattr(partition, "shared", lambda spec, tp: [tp])


def no_sums(patch: pytest.MonkeyPatch) -> None:
    """Every rank keeps its own terms."""
    patch.setattr(Parameters, "add_partial_gradients", lambda self, axis: None)


def boxes_turned(patch: pytest.MonkeyPatch) -> None:
    """The first box lies where the last should."""
    place = partition.place
    patch.setattr(partition, "place", lambda parameter, ranks: turned([*place(parameter, ranks)]))


def boxes_of_one_rank(patch: pytest.MonkeyPatch) -> None:
    """Nobody knows that others hold the same."""
    place = partition.place
    patch.setattr(
        partition, "place", lambda parameter, ranks: (box._replace(alike=1) for box in place(parameter, ranks))
    )


def turned(boxes: Sequence[Box]) -> tuple[Box, ...]:
    """Boxes of one size, each in the place of another."""
    return tuple(box._replace(global_offset=other.global_offset) for box, other in zip(boxes, boxes[::-1], strict=True))


def nothing(patch: pytest.MonkeyPatch) -> None:
    """No mistake."""


Control = Callable[[pytest.MonkeyPatch], None]
Found = dict[tuple[str, str], set[str]]

MISTAKES: list[tuple[Control, str, set[str]]] = [
    (norms_without_alike, "tp4, a key head for two", {"norms", "square"}),
    (norms_without_alike, "zero3 tp2, a key head for all", {"norms", "square"}),
    (sums_over_all_of_tp, "tp4, a key head for two", {"gradients"}),
    (sums_taken_twice, "tp4, a key head for all", {"gradients"}),
    (no_sums, "tp4, a key head for two, whole stream", {"gradients"}),
    (no_sums, "zero3 tp2, a key head for all", {"gradients"}),
    (boxes_turned, "dp2 tp2", {"first weights", "gradients"}),
    (boxes_of_one_rank, "tp4, a key head for two", {"whole", "gradients", "norms", "square"}),
]


def looked_at(folder: Path) -> Found:
    """This rank's failures in every case of so many ranks, without a mistake and with."""
    found: Found = {}
    for control, case in [*((nothing, case) for case in CASES), *((control, case) for control, case, _ in MISTAKES)]:
        processes, key_heads, words = CASES[case]
        if processes != dist.get_world_size():
            continue
        with pytest.MonkeyPatch.context() as patch:
            control(patch)
            found[control.__name__, case] = failures(made(folder, key_heads, words), key_heads)
    return found


@pytest.fixture(scope="module")
def found(pool: Pool, corpus: Corpus) -> Found:
    """The failures of all ranks together."""
    found: Found = {}
    for processes in 4, 8:
        ranks = pool.run(processes, looked_at, corpus.folder)
        found |= {key: set().union(*(rank[key] for rank in ranks)) for key in ranks[0]}
    return found


@pytest.mark.parametrize("case", CASES)
def test_several_boxes_are_one_parameter(found: Found, case: str) -> None:
    assert found["nothing", case] == set()


@pytest.mark.parametrize(("control", "case", "expected"), MISTAKES)
def test_a_mistake_is_seen(found: Found, control: Control, case: str, expected: set[str]) -> None:
    assert found[control.__name__, case] == expected


def written(folder: Path, run: Path, words: list[str], mistaken: Path | None = None) -> None:
    """Save values that no first weights have; then, in `mistaken`, with the first rows of a tensor for each box."""
    layout = made(folder, 1, words)
    for parameter in layout.spec.parameters():
        layout.locals[parameter.name].tensor.data.copy_(held(parameter, layout))
    weights = _weights(layout)
    places = state.places(weights, layout.parameters)
    _checkpointer(run).save(1, weights, places=places)
    if mistaken:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shards, "content", lambda shard, tensors, _: tensors[shard.path].detach()[: shard.sizes[0]])
            _checkpointer(mistaken).save(1, weights, places=places)


def read(folder: Path, runs: Sequence[Path], words: list[str]) -> list[bool]:
    """Whether what was saved in each of `runs` comes back; then, whether the last does where boxes are taken for
    others.
    """
    layout = made(folder, 1, words)
    weights, same = _weights(layout), list[bool]()
    places = state.places(weights, layout.parameters)
    mistaken = {path: (shape, turned(boxes)) for path, (shape, boxes) in places.items()}
    for run, where in [*((run, places) for run in runs), (runs[-1], mistaken)]:
        for tensor in weights["model"].values():
            tensor.zero_()
        _checkpointer(run).load(weights, places=where)
        same.append(all(torch.equal(layout.locals[p.name].tensor, held(p, layout)) for p in layout.spec.parameters()))
    return same


def held(parameter: Parameter, layout: Layout) -> Tensor:
    """What this rank should hold of it."""
    return rows(cut(parameter.name, values(parameter), 1, layout.ranks), layout)


def _weights(layout: Layout) -> state.State:
    return {"model": state.capture_weights(layout.parameters, [])["model"]}


def _checkpointer(run: Path) -> Checkpointer:
    group = dist.new_group(backend="gloo") if dist.is_initialized() else None
    return Checkpointer(RunFolder(run), asynchronous=False, group=group)


def test_boxes_saved_by_one_layout_are_read_by_others(pool: Pool, corpus: Corpus, tmp_path: Path) -> None:
    one, two, four, wrong = (tmp_path / name for name in ("one", "two", "four", "wrong"))
    written(corpus.folder, one, [])
    pool.run(2, written, corpus.folder, two, ["layout.tp=2"], wrong)
    pool.run(4, written, corpus.folder, four, ["layout.tp=2", "layout.shard=zero3"])
    assert read(corpus.folder, [one, two, four, wrong], [])[:4] == [True, True, True, False]
    assert pool.run(4, read, corpus.folder, [one, two, four], ["layout.tp=4"]) == [[True, True, True, False]] * 4

    index = storage.read_index(two / "checkpoints" / "step-0000001")["tensors"]
    chunks = index["model/transformer.blocks.0.attention.qkv.weight"]["chunks"]
    assert sorted(chunk["offsets"][0] for chunk in chunks) == [0, 16, 32, 40]  # the key and the value once
