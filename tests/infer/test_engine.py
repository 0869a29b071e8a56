"""Many texts at once: each is what it would be alone, whoever comes, goes, or is looked up."""

from typing import Any

import pytest
import torch

from phalanx.infer import kernels
from phalanx.infer.bundle import ModelBundle, load_bundle
from phalanx.infer.decoder import Decoder, enable_cache
from phalanx.infer.decoder_graphs import GraphedDecoder
from phalanx.infer.engine import Engine, draft
from phalanx.infer.kernels import compiled
from phalanx.infer.kv_cache import PAGE, Chunk, KVCache
from phalanx.infer.sample import Options
from phalanx.precision import prepacked
from tests.batches import batch_of
from tests.infer.runs import GPT, interrupted, make_run, sliced

CONTEXT = 64
KINDS = ("torch", "steps", "native")
PROMPTS = ([5, 6, 7, 5, 6, 7, 5, 6], [900], [30, 31] * 9, list(range(40, 60)), [7, 7, 7])


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    model = GPT.model.model_copy(update={"layers": 2, "positions": CONTEXT, "init_std": 0.2})
    data = GPT.data.model_copy(update={"sequence": CONTEXT})
    path = tmp_path_factory.mktemp("gpt") / "run"
    make_run(path, GPT.model_copy(update={"model": model, "data": data}), "gpt2")
    return load_bundle(path)


def decoder(loaded: ModelBundle, memory: int = 1 << 24, kind: str = "torch", precision: str = "fp32") -> Decoder:
    """`steps` is what a GPU does, here without its graphs."""
    model: Any = loaded.shared()
    if kind == "native":
        if reason := compiled.unavailable():
            pytest.skip(reason)
        cache = kernels.install(model, precision, memory).cache
    else:
        prepacked.fill(model, precision, torch.device("cpu"), model.words)
        cache = enable_cache(model, memory)
    for kept in (*cache.keys, *cache.values):
        kept.fill_(torch.nan)  # what is not written is not read
    return (GraphedDecoder if kind == "steps" else Decoder)(model, loaded.tokenizer.vocab, cache)


def engine(
    loaded: ModelBundle, lookup: bool = False, most: int = 64, memory: int = 1 << 24, kind: str = "torch"
) -> Engine:
    return Engine(decoder(loaded, memory, kind), CONTEXT, [loaded.tokenizer.eod], most, lookup)


SEEN: dict[tuple[int, ...], list[int]] = {}  # by prompt, of the one model of these tests


@torch.no_grad()
def plain(loaded: ModelBundle, prompt: list[int], tokens: int) -> list[int]:
    """Greedily, the whole window anew for each token."""
    seen = SEEN.setdefault(tuple(prompt), [*prompt])
    while len(seen) < len(prompt) + tokens:
        seen.append(int(loaded.model(batch_of(torch.tensor([seen[-CONTEXT:]]), CONTEXT))[0, -1, :50257].argmax()))
    return seen[: len(prompt) + tokens]


@pytest.mark.parametrize("lookup", [False, True])
@pytest.mark.parametrize("most", [64, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_what_it_would_be_alone(loaded: ModelBundle, lookup: bool, most: int, kind: str) -> None:
    """Of several lengths, some past the context, joining and leaving at other steps."""
    made = engine(loaded, lookup, most, kind=kind)
    free = sum(made.decoder.cache.free)  # type: ignore[attr-defined]
    counts = (20, 9, 60, 3, 33)
    requests = [
        made.submit(prompt, Options(max_tokens=count, temperature=0))
        for prompt, count in zip(PROMPTS, counts, strict=True)
    ]
    while made.busy:
        made.step()
    for request, prompt, count in zip(requests, PROMPTS, counts, strict=True):
        assert request.tokens == plain(loaded, list(prompt), count) and request.ended == "length"
    assert sum(made.decoder.cache.free) == free  # type: ignore[attr-defined]


def test_a_text_that_overflows_leaves_its_neighbours_alone(loaded: ModelBundle) -> None:
    """One goes on by several tokens, the other by one that is no number."""
    found = []
    for broken in (False, True):
        made = decoder(loaded, kind="steps")
        a, b = made.reserve(20), made.reserve(20)
        assert a and b
        made([Chunk(a, 0, PROMPTS[3][:17]), Chunk(b, 0, PROMPTS[3][:17])])
        if broken:
            for keys in (*made.cache.keys, *made.cache.values):
                keys[:, b.slots] = torch.nan
        found.append(made([Chunk(a, 17, [5, 6, 7], 3), Chunk(b, 17, [9], 1)]))
    assert found[0][0].equal(found[1][0]) and found[1][1].isnan().any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_in_the_middle_of_another(loaded: ModelBundle, kind: str) -> None:
    """KVCache positions travel with the call: what the model goes on with meanwhile changes nothing."""
    made = decoder(loaded, kind=kind)
    a, b = made.reserve(40), made.reserve(40)
    assert a and b
    made([Chunk(a, 0, PROMPTS[3]), Chunk(b, 0, PROMPTS[2])])
    right = made([Chunk(a, 20, [5, 6, 7], 3)])[0].clone()
    block = next(iter(made.model.transformer.blocks.values()))
    with interrupted(block, lambda: made([Chunk(b, 18, [9, 8])])):
        found = made([Chunk(a, 20, [5, 6, 7], 3)])[0]
    assert found.equal(right)


@pytest.mark.parametrize(
    "options", [Options(max_tokens=30, seed=3), Options(max_tokens=30, seed=4, top_k=3, temperature=0.5)]
)
def test_looking_up_changes_nothing_but_the_steps(loaded: ModelBundle, options: Options) -> None:
    """Drawn tokens too are those that would have been drawn one by one."""
    alone, helped = engine(loaded), engine(loaded, lookup=True)
    first, second = (made.submit(PROMPTS[2], options) for made in (alone, helped))
    for made in (alone, helped):
        while made.busy:
            made.step()
    assert first.tokens == second.tokens


@pytest.mark.parametrize("kind", KINDS)
def test_drawn_and_greedy_texts_share_steps(loaded: ModelBundle, kind: str) -> None:
    """Of the greedy only the likeliest tokens leave the decoder, of the others their scores."""
    options = [Options(max_tokens=6, temperature=n % 2, seed=n) for n in range(5)]
    made = engine(loaded, lookup=True, kind=kind)
    together = [made.submit(prompt, each) for prompt, each in zip(PROMPTS, options, strict=True)]
    while made.busy:
        made.step()
    for request, prompt, each in zip(together, PROMPTS, options, strict=True):
        alone = made.submit(prompt, each)
        while made.busy:
            made.step()
        assert request.tokens == alone.tokens and request.ended == alone.ended


def test_prompts_on_a_gpu(loaded: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here by another kernel: those that begin together go through it at once."""
    made, ends = engine(loaded, kind="steps"), []

    def attend(*given: Any) -> torch.Tensor:
        ends.append(given[3].cu_seqlens.tolist())
        return sliced(*given)

    monkeypatch.setattr("phalanx.infer.decoder_graphs.attend_varlen", attend)
    made.decoder.varlen = True  # type: ignore[attr-defined]
    requests = [made.submit(prompt, Options(max_tokens=5, temperature=0)) for prompt in PROMPTS]
    while made.busy:
        made.step()
    for request, prompt in zip(requests, PROMPTS, strict=True):
        assert request.tokens == plain(loaded, list(prompt), 5)
    assert [len(each) for each in ends] == [6, 6]  # both layers, all five


@pytest.mark.slow
def test_windows_that_slide_take_turns(loaded: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of such a window is computed anew: of many, a step takes a few; each text is what it would be alone."""
    monkeypatch.setattr("phalanx.infer.engine.PREFILL", 2 * CONTEXT)
    made = engine(loaded)
    requests = [made.submit([5, 6 + n], Options(max_tokens=70, temperature=0)) for n in range(5)]
    sizes = []
    while made.busy:
        sizes.append(sum(len(request.tokens) > CONTEXT + 1 for request in made.step() if not request.ended))
    assert max(sizes) == 2 and made.steps > 75
    for n, request in enumerate(requests):
        assert request.tokens == plain(loaded, [5, 6 + n], 70)


def test_what_repeats_takes_fewer_steps(loaded: ModelBundle) -> None:
    made = engine(loaded, lookup=True)
    request = made.submit([7, 7, 7], Options(max_tokens=50, temperature=0))
    while made.busy:
        made.step()
    assert request.tokens == plain(loaded, [7, 7, 7], 50)
    repeats = sum(request.tokens[i] == request.tokens[i - 1] for i in range(3, len(request.tokens)))
    assert made.steps < 50 or repeats < 5


def test_the_last_words_are_looked_for() -> None:
    assert draft([1, 2, 3, 4, 5, 9, 1, 2, 3], 2) == [4, 5]
    assert draft([1, 2, 3, 7, 1, 2, 3, 8, 1, 2, 3], 9) == [8, 1, 2, 3]  # the last of several places
    assert draft([1, 2, 3, 4], 9) == draft([1, 2], 9) == draft([1, 2, 3, 1, 2, 3], 0) == []


def test_those_wait_for_whom_there_is_no_room(loaded: ModelBundle) -> None:
    """And get what they would have got."""
    made = engine(loaded, memory=1)  # the room for one sequence, and a page more
    requests = [
        made.submit([5, 6], Options(max_tokens=45, temperature=0)) for _ in range(3)
    ]  # three of five pages each
    made.step()
    assert len(made.active) == 1 and len(made.waiting) == 2
    while made.busy:
        made.step()
    assert {tuple(request.tokens) for request in requests} == {tuple(plain(loaded, [5, 6], 45))}
    long = made.submit([5, 6], Options(max_tokens=80, temperature=0))  # past all that the model can see
    while made.busy:
        made.step()
    assert long.tokens == plain(loaded, [5, 6], 80)


def test_who_leaves_frees_the_room(loaded: ModelBundle) -> None:
    made = engine(loaded)
    stream = made.stream(made.submit([5, 6], Options(max_tokens=30, temperature=0)))
    waiting = made.submit([8], Options(max_tokens=5, temperature=0))
    assert next(stream) == plain(loaded, [5, 6], 1)[-1]
    stream.close()
    made.cancel(waiting)
    assert not made.busy and waiting.ended == "cancelled"
    assert all(made.decoder.cache.free)  # type: ignore[attr-defined]


def test_pages_lie_together_where_they_can() -> None:
    cache = KVCache(1, 1, 1, 6, torch.zeros(()))
    a, b, c = (cache.reserve(2 * PAGE) for _ in range(3))
    assert a and b and c and cache.reserve(1) is None
    assert a.adjacent and b.numbers == (2, 3)
    cache.release(a)
    cache.release(c)
    scattered = cache.reserve(3 * PAGE)
    assert scattered and scattered.numbers == (0, 1, 4) and not scattered.adjacent
    rows = torch.arange(6 * PAGE)[None]
    assert scattered.rows(rows, 2 * PAGE + 3)[0].tolist() == [*range(2 * PAGE), *range(4 * PAGE, 4 * PAGE + 3)]


@pytest.mark.parametrize("kind", KINDS)
def test_scattered_pages_hold_the_same(loaded: ModelBundle, kind: str) -> None:
    made = engine(loaded, memory=(5 + (kind == "steps")) * 2 * PAGE * 2 * 16 * 4, kind=kind)
    cache = made.decoder.cache  # type: ignore[attr-defined]
    first, middle = cache.reserve(PAGE), cache.reserve(2 * PAGE)
    cache.release(first)
    request = made.submit(PROMPTS[0], Options(max_tokens=40, temperature=0))
    made.step()
    assert request.pages is not None and not request.pages.adjacent
    while made.busy:
        made.step()
    assert request.tokens == plain(loaded, list(PROMPTS[0]), 40)
    cache.release(middle)


@pytest.mark.numerics
@pytest.mark.parametrize("kind", ["torch", "native"])
def test_int8_is_near(loaded: ModelBundle, kind: str) -> None:
    """Scores in int8 are those of fp32 but for rounding."""
    scores = []
    for made in (decoder(loaded), decoder(loaded, kind=kind, precision="int8")):
        pages = made.reserve(20)
        assert pages is not None
        scores.append(made([Chunk(pages, 0, PROMPTS[3])])[0][0])
    assert torch.cosine_similarity(*scores, dim=0) > 0.999


def reference(loaded: ModelBundle, tokens: list[int]) -> torch.Tensor:
    """Logarithms of the probabilities after each token, by transformers' way of the whole: float32 [tokens, vocab]."""
    with torch.no_grad():
        return loaded.model(batch_of(torch.tensor([tokens]), CONTEXT))[0, :, :50257].float().log_softmax(-1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [256, 5])
def test_probabilities_are_those_of_the_whole_text(
    loaded: ModelBundle, kind: str, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a prompt's tokens and of new ones, drawn, greedy, looked up or beside others; some at most in a step."""
    monkeypatch.setattr("phalanx.infer.engine.SCORED", share)
    made = engine(loaded, lookup=True, kind=kind)
    options = [Options(max_tokens=9, temperature=n % 2, seed=n, logprobs=n, prompt_logprobs=n != 2) for n in range(5)]
    requests = [made.submit(prompt, each) for prompt, each in zip(PROMPTS, options, strict=True)]
    beside = made.submit(PROMPTS[0], Options(max_tokens=20, temperature=0))
    while made.busy:
        made.step()
    assert beside.tokens == plain(loaded, list(PROMPTS[0]), 20) and not beside.scored
    for request, each in zip(requests, options, strict=True):
        first = 0 if each.prompt_logprobs else request.prompt
        right = reference(loaded, request.tokens)
        assert [one.token for one in request.scored] == request.tokens[first:]
        for place, one in enumerate(request.scored, first):
            if place == 0:
                assert one.logprob is None and one.top == []
                continue
            assert one.logprob == pytest.approx(float(right[place - 1, one.token]), abs=1e-3)
            assert [value for _, value in one.top] == pytest.approx(
                right[place - 1].topk(each.logprobs or 0)[0].tolist(), abs=1e-3
            )
        alone = engine(loaded, kind=kind)
        again = alone.submit(
            request.tokens[: request.prompt], Options(each.max_tokens, each.temperature, seed=each.seed)
        )
        while alone.busy:
            alone.step()
        assert again.tokens == request.tokens  # asking changes nothing


def test_a_prompt_may_be_scored_alone(loaded: ModelBundle) -> None:
    made = engine(loaded)
    request = made.submit(PROMPTS[3], Options(max_tokens=0, logprobs=0, prompt_logprobs=True))
    none, one = (
        made.submit(PROMPTS[1], Options(max_tokens=0, logprobs=0, prompt_logprobs=asked)) for asked in (False, True)
    )
    assert none.ended == one.ended == "length" and len(one.scored) == 1
    while made.busy:
        made.step()
    assert request.ended == "length" and request.generated == 0 and len(request.scored) == len(PROMPTS[3])
    assert all(made.decoder.cache.free)  # type: ignore[attr-defined]


def test_nothing_is_scored_that_nobody_asked_for(loaded: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    made, rows = engine(loaded), list[int]()
    monkeypatch.setattr("phalanx.infer.engine.scored", None)
    monkeypatch.setattr(made, "decoder", Watched(made.decoder, rows))
    made.submit(PROMPTS[3], Options(max_tokens=3))
    while made.busy:
        made.step()
    assert rows == [1, 1, 1]


class Watched:
    """A decoder, and of how many tokens it told the scores."""

    def __init__(self, decoder: Any, rows: list[int]) -> None:
        self.decoder, self.rows, self.room = decoder, rows, decoder.room
        self.reserve, self.release = decoder.reserve, decoder.release

    def __call__(self, chunks: list[Chunk]) -> list[torch.Tensor]:
        said: list[torch.Tensor] = self.decoder(chunks)
        self.rows += [len(rows) for rows in said]
        return said
