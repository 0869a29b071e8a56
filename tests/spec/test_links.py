"""Links between parameters and foreign tensors: every number has one place there, whatever the layout of the file."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from phalanx.config import ModelConfig
from phalanx.models.family import hugging_face, spec_of
from phalanx.spec.leaves import Dim, Matrix, Norm, Table
from phalanx.spec.links import Foreign, Link, Names, links, second_names, unnamed, view
from phalanx.spec.model import MLP, WORDS, Attention, Block, Embeddings, Head, Spec
from phalanx.spec.partition import Ranks
from tests.spec.models import name, odd

HIDDEN, VOCAB, ROWS = 10, 11, 16


def decoder(tied: bool, bias: bool = True) -> Spec:
    """A model of another kind than those of the package: 6 heads over 2 key heads, a gate, rms norms."""
    embed, words = Dim("embed", HIDDEN), Dim("vocab", VOCAB, padded=ROWS)
    norm = Norm(embed, 1e-5, "rms", bias=False)
    attention = Attention(HIDDEN, 6, 2, 3, causal=True, bias=(bias, False))
    block = Block(norm, attention, norm, MLP(HIDDEN, 7, "silu", gated=True, bias=False))
    head = Matrix(embed, words, bias=False, per="label", tied=WORDS if tied else "")
    return Spec(HIDDEN, 8, Embeddings(Table(words, embed)), (block,) * 2, norm, (Head("lm", (("head", head),)),))


def names(qkv: str | Foreign, up: str | Foreign = "up") -> Names:
    blocks: dict[str, str | Foreign] = {
        "norm1": "a", "attention.qkv": qkv, "attention.out": "out", "norm2": "b", "feed_forward.up": up,
        "feed_forward.down": Foreign("down", transposed=True),
    }  # fmt: skip
    once = {"transformer.embeddings.token": "words", "transformer.norm": "last"}
    return Names("layer{}.", blocks, once, {"lm": {"head": "head"}})


def state_of(spec: Spec) -> dict[str, Tensor]:
    """Parameters in which no two numbers are equal, their padding zero."""
    out, first = {}, 1
    for parameter in spec.parameters():
        whole = torch.zeros(parameter.shape)
        inner = whole[tuple(slice(dim.size) for dim in parameter.dims)]
        inner.copy_(torch.arange(first, first + inner.numel()).view(inner.shape))
        out[parameter.name], first = whole, first + inner.numel()
    return out


def exported(found: list[Link], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The foreign tensors, and that nothing in them was filled twice or not at all."""
    out: dict[str, Tensor] = {}
    for link in found:
        whole = out.setdefault(link.theirs.name, torch.full(link.theirs.shape, -1.0))
        place = view(whole, link.theirs.view)
        assert whole.shape == link.theirs.shape and (place == -1).all()
        place.copy_(view(state[link.ours.name], link.ours.view))
    return out


@pytest.mark.parametrize("model", [*odd()], ids=name)
def test_a_family_names_every_number_once(model: ModelConfig) -> None:
    spec = spec_of(model)
    form = next(form for form in hugging_face(model.family).values() if not form.why_not(model))
    names_there = form.with_head(spec.tuned).names
    assert not unnamed(spec, names_there)
    state = state_of(spec)
    there = exported([*links(spec, names_there)], state)
    numbers = Counter(torch.cat([tensor.flatten() for tensor in there.values()]).tolist())
    assert numbers == Counter(range(1, spec.elements + 1))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("qkv", ["{q,k,v}", "qkv", Foreign("qkv", True), Foreign("qkv", order="same")])
@pytest.mark.parametrize("up", ["{gate,up}", "up", Foreign("up", order="turns")])
def test_there_and_back(tied: bool, qkv: str | Foreign, up: str | Foreign) -> None:
    spec = decoder(tied)
    found, state = [*links(spec, names(qkv, up))], state_of(spec)
    there = exported(found, state)
    back = {one: torch.zeros_like(tensor) for one, tensor in state.items()}
    for link in found:
        view(back[link.ours.name], link.ours.view).copy_(view(there[link.theirs.name], link.theirs.view))
    assert all(torch.equal(back[one], state[one]) for one in state)
    assert ("head.weight" in there) is not tied
    assert second_names(spec, names(qkv, up)) == ({"head.weight": "words.weight"} if tied else {})


def test_where_rows_go() -> None:
    """Of two groups of three queries, a key and a value, three rows each; by hand."""
    spec = decoder(tied=False)
    state = state_of(spec)
    qkv, up = state["transformer.blocks.0.attention.qkv.weight"], state["transformer.blocks.0.feed_forward.up.weight"]
    apart = exported([*links(spec, names("{q,k,v}", "{gate,up}"))], state)
    q, k, v = (apart[f"layer0.{part}.weight"] for part in "qkv")
    assert torch.equal(q, torch.cat([qkv[:9], qkv[15:24]]))
    assert torch.equal(k, torch.cat([qkv[9:12], qkv[24:27]]))
    assert torch.equal(v, torch.cat([qkv[12:15], qkv[27:]]))
    assert torch.equal(apart["layer0.gate.weight"], up[:7]) and torch.equal(apart["layer0.up.weight"], up[7:])

    stacked = exported([*links(spec, names("qkv", Foreign("up", order="turns")))], state)
    assert torch.equal(stacked["layer0.qkv.weight"], torch.cat([q, k, v]))
    assert torch.equal(stacked["layer0.up.weight"].view(7, 2, -1), torch.stack([up[:7], up[7:]], 1))
    down = state["transformer.blocks.0.feed_forward.down.weight"]
    assert torch.equal(stacked["layer0.down.weight"], down.T)


def test_a_module_without_a_name_is_told() -> None:
    spec = decoder(tied=True)
    assert not unnamed(spec, names("qkv"))
    less = names("qkv")._replace(once={"transformer.embeddings.token": "words"})
    assert unnamed(spec, less) == "transformer.norm.weight"
    assert unnamed(decoder(tied=False), names("qkv")._replace(heads={})) == "head.weight"


@pytest.mark.parametrize("tp", [1, 2])
def test_ranks_have_parts(tp: int) -> None:
    """Each its heads and its words; the vocabulary's padding there is not the padding here."""
    plain = MLP(HIDDEN, 8, "gelu")
    spec = decoder(tied=False)
    spec = replace(spec, blocks=tuple(replace(block, feed_forward=plain) for block in spec.blocks))
    state, table = state_of(spec), names("qkv")
    parts = [exported([*links(spec, table, Ranks(tp, rank=rank), rows=40)], state) for rank in range(tp)]
    words = torch.cat([part["words.weight"] for part in parts])
    assert torch.equal(words[:VOCAB], state[WORDS][:VOCAB]) and (words[VOCAB:] == -1).all() and len(words) == 40
    out = torch.cat([part["layer1.out.weight"] for part in parts], 1)
    assert torch.equal(out, state["transformer.blocks.1.attention.out.weight"])
    whole = exported([*links(spec, table)], state)["layer1.qkv.weight"].split([18, 6, 6])
    mine = [part["layer1.qkv.weight"].split([18 // tp, 6 // tp, 6 // tp]) for part in parts]
    assert all(torch.equal(torch.cat(pieces), one) for *pieces, one in zip(*mine, whole, strict=True))
    for part in parts:
        assert torch.equal(part["layer1.a.weight"], state["transformer.blocks.1.norm1.weight"])
