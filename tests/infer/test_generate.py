"""Continuing a text: what may be chosen and how often, whole characters, the end, the window."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from phalanx.data.tokenize import load_tokenizer
from phalanx.errors import InputError
from phalanx.infer.bundle import ModelBundle, load_bundle
from phalanx.infer.decoder_model import DecoderModel as Model
from phalanx.infer.sample import Options, candidates, choose
from tests.batches import batch_of
from tests.infer.runs import BERT, GPT, make_run, scripted

PROBABILITIES = [0.05, 0.5, 0.15, 0.3]
GREEDY = Options(max_tokens=200, temperature=0)


def logits_of(probabilities: list[float]) -> Tensor:
    return torch.tensor(probabilities).log() + 3


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(), {1: 0.5, 3: 0.3, 2: 0.15, 0: 0.05}),
        (Options(top_k=2), {1: 0.5 / 0.8, 3: 0.3 / 0.8}),
        (Options(top_k=1), {1: 1.0}),
        (Options(top_k=9), {1: 0.5, 3: 0.3, 2: 0.15, 0: 0.05}),
        (Options(top_p=0.01), {1: 1.0}),
        (Options(top_p=0.49), {1: 1.0}),
        (Options(top_p=0.51), {1: 0.5 / 0.8, 3: 0.3 / 0.8}),
        (Options(top_p=0.79), {1: 0.5 / 0.8, 3: 0.3 / 0.8}),
        (Options(top_p=0.81), {1: 0.5 / 0.95, 3: 0.3 / 0.95, 2: 0.15 / 0.95}),
        (Options(top_k=2, top_p=0.62), {1: 1.0}),  # of the two left, the first has 0.625
        (Options(temperature=0.5), {1: 0.25 / 0.365, 3: 0.09 / 0.365, 2: 0.0225 / 0.365, 0: 0.0025 / 0.365}),
        (Options(temperature=0.5, top_p=0.68), {1: 1.0}),  # the temperature comes first
        (Options(temperature=1e-30), {1: 1.0, 3: 0.0, 2: 0.0, 0: 0.0}),
    ],
)
def test_candidates(options: Options, expected: dict[int, float]) -> None:
    tokens, probabilities = candidates(logits_of(PROBABILITIES), options)
    found = dict(zip(tokens.tolist(), probabilities.tolist(), strict=True))
    if options.top_k or options.top_p < 1:
        assert sorted(found.values(), reverse=True) == list(found.values())
    assert found == pytest.approx({token: p for token, p in expected.items() if token in found}, abs=1e-6)
    assert all(expected[token] == 0 for token in expected.keys() - found.keys())


def test_candidates_of_equal_words_are_exactly_k() -> None:
    tokens, probabilities = candidates(torch.zeros(10), Options(top_k=3))
    assert len(set(tokens.tolist())) == 3
    assert probabilities.tolist() == pytest.approx([1 / 3] * 3)


def test_frequencies_of_choices() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, draws = logits_of(PROBABILITIES), 4000
    counts = torch.zeros(4)
    for _ in range(draws):
        counts[choose(logits, Options(top_k=3), generator)] += 1
    assert counts[0] == 0
    for token, p in ((1, 0.5 / 0.95), (3, 0.3 / 0.95), (2, 0.15 / 0.95)):
        assert abs(counts[token].item() / draws - p) < 4 * (p * (1 - p) / draws) ** 0.5


@pytest.mark.parametrize(
    ("option", "value"),
    [("max_tokens", -1), ("temperature", -0.5), ("logprobs", -1), ("top_k", -1), ("top_p", 0.0), ("top_p", 1.1)],
)
def test_options_out_of_range(option: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{option}={value} is out of range"):
        Options(**{option: value})


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    path = tmp_path_factory.mktemp("gpt") / "run"
    make_run(path, GPT, "gpt2")
    return load_bundle(path)


def test_greedy_takes_the_likeliest_and_the_window_slides(loaded: ModelBundle) -> None:
    tokens = loaded.tokenizer.encode("The cat sat on")
    start = len(tokens)
    for _ in range(20):  # far beyond the 12 positions
        window = torch.tensor([tokens[-12:]])
        with torch.no_grad():
            tokens.append(int(loaded.model(batch_of(window, 12))[0, -1].argmax()))
    assert loaded.tokenizer.eod not in tokens
    text = "".join(Model(loaded).generate("The cat sat on", Options(max_tokens=20, temperature=0)))
    assert text == loaded.tokenizer.decode(tokens[start:])


def test_the_seed_decides(loaded: ModelBundle) -> None:
    def text(seed: int) -> str:
        return "".join(Model(loaded).generate("The cat", Options(max_tokens=15, seed=seed)))

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_top_k_of_one_is_greedy(loaded: ModelBundle) -> None:
    greedy, only = (Options(max_tokens=10, temperature=0), Options(max_tokens=10, top_k=1))
    assert "".join(Model(loaded).generate("The cat", greedy)) == "".join(Model(loaded).generate("The cat", only))


def replay(text: str, then: list[int]) -> tuple[Model, str, int]:
    """A run that continues "A" with the tokens of `text` and `then`."""
    tokenizer = load_tokenizer("gpt2")
    script = [*tokenizer.encode(text), *then]
    steps = iter(script)
    return scripted(lambda _: next(steps))[0], "A", len(script)


def test_pieces_are_whole_characters() -> None:
    text = " naïve 😀 日本語 👩‍👩‍👧 – ∮ end"
    model, prompt, count = replay(text, [50256])
    pieces = list(model.generate(prompt, GREEDY))
    assert "".join(pieces) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece or not piece for piece in pieces)
    assert 10 < len(pieces) < count - 5  # streamed, and some pieces took several tokens


def test_a_replacement_character_of_the_text_itself_is_shown() -> None:
    model, prompt, _ = replay("a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}", [50256])
    assert "".join(model.generate(prompt, GREEDY)) == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"


def test_bytes_that_make_no_character_are_shown_at_last() -> None:
    half = load_tokenizer("gpt2").encode("😀")[:1]
    model, prompt, _ = replay("x", [*half, *half, 50256])
    assert "".join(model.generate(prompt, GREEDY)) == "x" + 2 * "\N{REPLACEMENT CHARACTER}"


def test_the_first_piece_comes_before_the_last_token_is_computed() -> None:
    model, decoder = scripted(lambda _: 262)
    stream = model.generate("A", GREEDY)
    assert next(stream) == " the"
    assert len(decoder.seen) == 1


def test_it_stops_at_the_end_of_the_document() -> None:
    model, prompt, _ = replay(" one", [50256, 262, 262])
    assert "".join(model.generate(prompt, GREEDY)) == " one"


def test_it_stops_after_so_many_tokens() -> None:
    model, decoder = scripted(lambda _: 262)
    assert "".join(model.generate("A", Options(max_tokens=3, temperature=0))) == " the the the"
    assert [len(seen) for seen in decoder.seen] == [1, 2, 3]


def test_an_empty_prompt_begins_a_document() -> None:
    model, decoder = scripted(lambda _: 262)
    assert "".join(model.generate("", Options(max_tokens=2, temperature=0))) == " the the"
    assert decoder.seen[0] == [50256]


def test_a_prompt_as_long_as_the_context_and_one_longer() -> None:
    model, decoder = scripted(lambda _: 262)
    assert "".join(model.generate("the" + 11 * " the", Options(max_tokens=2, temperature=0))) == " the the"
    assert [len(seen) for seen in decoder.seen] == [12, 12]
    with pytest.raises(InputError, match=r"the prompt has 13 tokens, the model's context 12"):
        model.generate("the" + 12 * " the", GREEDY)


def test_a_bert_run(tmp_path: Path) -> None:
    make_run(tmp_path / "run", BERT, "bert-uncased")
    with pytest.raises(InputError, match=r"run learned to fill masks.*phalanx fill"):
        Model(load_bundle(tmp_path / "run"))
