"""Programs of others, unmodified: lm_eval's local-completions, langchain's embeddings, OpenAI's client."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from phalanx.convert.huggingface import export_run
from phalanx.data.tokenize import load_tokenizer
from phalanx.infer import load_encoder
from tests.serve.conftest import Server

PAIRS = [("The cat", " sat on the mat"), ("Zoë said: 灯 🦜🏽", " is it?"), ("", "Once upon"), ("one two", " three")]
TEXT = "The 灯 was lit 🦜🏽 in 1811, by Zoë."


@pytest.fixture(scope="module")
def folder(models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GPT as transformers has it, with its tokenizer."""
    made = tmp_path_factory.mktemp("theirs") / "gpt"
    export_run(models[3], made)
    return made


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return transformers.GPT2LMHeadModel.from_pretrained(folder).eval()


@torch.no_grad()
def logs(theirs: Any, tokens: list[int]) -> torch.Tensor:
    """Logarithms of probabilities after each token by transformers: float32 [tokens, vocab]"""
    found: torch.Tensor = theirs(torch.tensor([tokens])).logits[0].log_softmax(-1)
    return found


def client(server: Server) -> Any:
    import openai

    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("ids", [False, True])
def test_a_prompt_that_is_scored(server: Server, theirs: Any, ids: bool) -> None:
    """As text or as tokens; nothing new, or some tokens, which are the same as without."""
    words = load_tokenizer("gpt2")
    tokens = words.encode(TEXT)
    asked: dict[str, Any] = {"model": "gpt", "prompt": tokens if ids else TEXT, "temperature": 0}
    for count in (0, 5):
        plain = client(server).completions.create(**asked, max_tokens=count).choices[0]
        found = client(server).completions.create(**asked, max_tokens=count, echo=True, logprobs=2)
        choice, said = found.choices[0], found.choices[0].logprobs
        assert choice.text == TEXT + plain.text and plain.logprobs is None and choice.finish_reason == "length"
        assert found.usage and (found.usage.prompt_tokens, found.usage.completion_tokens) == (len(tokens), count)
        assert said and said.tokens and said.token_logprobs and said.top_logprobs and said.text_offset
        assert len(said.tokens) == len(tokens) + count and said.token_logprobs[0] is said.top_logprobs[0] is None
        whole = tokens + words.encode(plain.text) if count else tokens
        right = logs(theirs, whole)
        for at in range(1, len(tokens)):
            own = float(right[at - 1, whole[at]])
            assert said.token_logprobs[at] == pytest.approx(own, abs=1e-3)
            best = right[at - 1].topk(2).values.tolist()
            assert sorted({*said.top_logprobs[at].values()})[-2:] == pytest.approx(sorted(best), abs=1e-3)
            assert said.top_logprobs[at][said.tokens[at]] == said.token_logprobs[at]
        assert said.text_offset == sorted(said.text_offset) and said.text_offset[-1] <= len(choice.text)
        for name, start in zip(said.tokens, said.text_offset, strict=True):
            assert name.startswith("bytes:\\x") or choice.text[start:].startswith(name)


def test_new_tokens_are_scored(server: Server, theirs: Any) -> None:
    """Of what is told alone: a stop takes its tokens with it. Streamed it is the same."""
    asked: dict[str, Any] = {"model": "gpt", "prompt": "The cat", "max_tokens": 12, "temperature": 0, "logprobs": 0}
    whole = client(server).completions.create(**asked).choices[0]
    assert (
        whole.logprobs and whole.logprobs.tokens and whole.logprobs.token_logprobs and len(whole.logprobs.tokens) == 12
    )
    words = load_tokenizer("gpt2")
    prompt = words.encode("The cat")
    (first,) = words.encode(whole.logprobs.tokens[0])
    assert whole.logprobs.token_logprobs[0] == pytest.approx(float(logs(theirs, prompt)[-1, first]), abs=1e-3)
    stop = whole.text[8:11]
    for words_of in ({}, {"stop": stop}):
        alone = client(server).completions.create(**asked, **words_of).choices[0]
        events = [event.choices[0] for event in client(server).completions.create(**asked, **words_of, stream=True)]
        assert "".join(event.text for event in events) == alone.text
        streamed = [name for event in events if event.logprobs for name in event.logprobs.tokens or []]
        assert alone.logprobs and streamed == alone.logprobs.tokens
        assert alone.logprobs.text_offset and all(at < len(alone.text) for at in alone.logprobs.text_offset)


def test_a_completion_ends_with_the_context(server: Server) -> None:
    """However many tokens are asked for, and whoever else asks."""
    found = client(server).completions.create(model="gpt", prompt=[5] * 2040, max_tokens=10**9, seed=1)
    assert found.usage and found.usage.total_tokens <= 2048
    assert found.choices[0].finish_reason == "stop" or found.usage.total_tokens == 2048


@pytest.mark.parametrize("tokenized", [True, False])
def test_lm_eval(server: Server, folder: Path, theirs: Any, tokenized: bool) -> None:
    """Likelihoods of continuations, of whole texts, and texts that are written."""
    pytest.importorskip("lm_eval", reason="lm_eval is not installed")
    made = importlib.import_module("lm_eval.models.openai_completions").LocalCompletionsAPI(
        model="gpt", base_url=f"{server.url}/v1/completions", tokenizer=str(folder), tokenizer_backend="huggingface",
        tokenized_requests=tokenized, max_length=1024, batch_size=2, max_retries=1,
    )  # fmt: skip
    instance = importlib.import_module("lm_eval.api.instance").Instance
    words = transformers.AutoTokenizer.from_pretrained(folder)
    pairs = PAIRS if tokenized else [pair for pair in PAIRS if pair[0]]
    found = made.loglikelihood([instance("loglikelihood", {}, pair, n) for n, pair in enumerate(pairs)])
    for (context, continuation), (likelihood, greedy) in zip(pairs, found, strict=True):
        before = words.encode(context) or [words.eos_token_id]
        tokens = before + words.encode(context + continuation)[len(words.encode(context)) :]
        right = logs(theirs, tokens)[len(before) - 1 : -1]
        new = tokens[len(before) :]
        assert likelihood == pytest.approx(float(right[torch.arange(len(new)), new].sum()), abs=1e-3 * len(new))
        assert greedy == (right.argmax(-1).tolist() == new)
    tokens = [words.eos_token_id, *words.encode(TEXT)]
    right = logs(theirs, tokens)[torch.arange(len(tokens) - 1), tokens[1:]].sum()
    if tokenized:
        (rolling,) = made.loglikelihood_rolling([instance("loglikelihood_rolling", {}, (TEXT,), 0)])
        assert rolling == pytest.approx(float(right), abs=1e-3 * len(tokens))
    (text,) = made.generate_until(
        [instance("generate_until", {}, ("The cat", {"until": ["\n\n"], "max_gen_toks": 8}), 0)]
    )
    alone = client(server).completions.create(model="gpt", prompt="The cat", max_tokens=8, temperature=0, stop=["\n\n"])
    assert text == alone.choices[0].text


class Words:
    """What langchain takes for tiktoken's encoding."""

    def __init__(self, name: str) -> None:
        self.words = load_tokenizer(name)

    def encode(self, text: str, **_: Any) -> list[int]:
        return self.words.encode(text)

    encode_ordinary = encode


def test_langchain(server: Server, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends text, or tokens of this model, in all of its ways; tokens of another are refused."""
    import openai

    pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    embeddings = importlib.import_module("langchain_openai").OpenAIEmbeddings
    texts = [f"a cat number {n}" for n in range(300)]
    right = load_encoder(models[2], "torch").embed(texts)
    facts: dict[str, Any] = {"base_url": f"{server.url}/v1", "api_key": "none", "model": "plain", "max_retries": 0}
    plain = embeddings(check_embedding_ctx_length=False, **facts)
    np.testing.assert_allclose(plain.embed_documents(texts), right, atol=1e-5)
    np.testing.assert_allclose(plain.embed_query(texts[0]), right[0], atol=1e-5)
    export_run(models[2], tmp_path / "plain")
    by_folder = embeddings(tiktoken_enabled=False, tiktoken_model_name=str(tmp_path / "plain"), **facts)
    np.testing.assert_allclose(by_folder.embed_documents(texts[:3]), right[:3], atol=1e-5)
    for name in ("bert-uncased", "gpt2"):
        monkeypatch.setattr("tiktoken.encoding_for_model", lambda _, name=name: Words(name))
        by_tokens = embeddings(**facts)
        if name == "bert-uncased":
            np.testing.assert_allclose(by_tokens.embed_documents(texts), right, atol=1e-5)
        else:
            with pytest.raises(openai.BadRequestError, match="tokens are another's; send text"):
                by_tokens.embed_documents(["There is a cat on the mat."])


def test_errors_are_openais(server: Server) -> None:
    """Each with its own exception and code."""
    import openai

    with pytest.raises(openai.NotFoundError) as missing:
        client(server).completions.create(model="gpt5", prompt="a")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as wrong:
        client(server).completions.create(model="gpt", prompt="a", temperature=-1)
    assert (wrong.value.type, wrong.value.param) == ("invalid_request_error", "temperature")
    with pytest.raises(openai.NotFoundError, match=r"chat is not served.*/v1/completions"):
        client(server).chat.completions.create(model="gpt", messages=[{"role": "user", "content": "Hello"}])
