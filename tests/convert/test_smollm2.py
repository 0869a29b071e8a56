"""SmolLM2-135M-Instruct, quantised, is what transformers makes of the same file: logits, tokens, answers."""

from pathlib import Path

import pytest
import torch

from phalanx.data.tokenize import load_tokenizer
from phalanx.infer import load_decoder
from phalanx.infer.decoder_model import DecoderModel
from phalanx.infer.sample import Options
from phalanx.run.folder import RunFolder
from phalanx.run.import_record import ImportRecord
from tests.convert.smollm2 import QUESTION, Theirs, smollm2, smollm2_run, theirs  # noqa: F401

SENTENCE = "It was a bright cold day in April, and the clocks were striking 13."
TEXTS = (
    SENTENCE, QUESTION, "  two  spaces\n\n\tand tabs ", "don't DON'T we'LL", "12345 3.14", "",
    "Příliš žluťoučký kůň", "東京は日本の首都です。", "def f(x):\n        return x**2  # ok", "🙂👩‍👩‍👧 e\u0301 \u00a0",
)  # fmt: skip


@pytest.fixture(scope="module")
def ours(smollm2_run: Path) -> DecoderModel:  # noqa: F811
    return load_decoder(smollm2_run, "torch")


def test_logits_are_those_of_transformers(ours: DecoderModel, theirs: Theirs) -> None:  # noqa: F811
    tokens = ours.tokenizer.encode(SENTENCE)
    with torch.no_grad():
        wanted = theirs.model(torch.tensor([tokens])).logits[0]
    assert (ours.bundle.logits(tokens) - wanted).abs().max() < 1e-4


def test_tokens_are_those_of_transformers(smollm2_run: Path, theirs: Theirs) -> None:  # noqa: F811
    tokenizer = load_tokenizer(str(smollm2_run / "tokenizer.json")).for_prompts()
    for text in TEXTS:
        assert tokenizer.encode(text) == theirs.tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.encode_prompt(text) == theirs.tokenizer(text).input_ids


def test_digits_stand_apart_as_in_llama_cpp(ours: DecoderModel) -> None:
    """Of all kinds (tokenizer.ggml.pre is smollm), which transformers leaves to chance; the tokens are llama.cpp's."""
    encode = ours.tokenizer.encode
    assert encode(" ²") == [216, 19133] and encode(" 12 x") == [216, 33, 34, 1792]
    assert encode("a1²½Ⅷ٣") == [81, 33, 19133, 16738, 173, 223, 117, 164, 113]


def test_the_answer_is_that_of_transformers(ours: DecoderModel, theirs: Theirs) -> None:  # noqa: F811
    """Greedy, up to the token that ends a turn, which the file names."""
    answer = "".join(ours.generate(QUESTION, Options(max_tokens=12, temperature=0)))
    tokens = theirs.tokenizer(QUESTION, return_tensors="pt").input_ids
    with torch.no_grad():
        written = theirs.model.generate(
            tokens, max_new_tokens=12, do_sample=False, eos_token_id=2, pad_token_id=2,
            attention_mask=torch.ones_like(tokens),
        )[0, tokens.shape[1] :]  # fmt: skip
    assert answer == theirs.tokenizer.decode(written, skip_special_tokens=True) == "The capital of France is Paris."


def test_the_record_names_the_file_and_its_tokens(smollm2_run: Path, smollm2: Path) -> None:  # noqa: F811
    record = ImportRecord.read(RunFolder(smollm2_run))
    assert (record.source, record.begin, record.ends) == (f"gguf:{smollm2.resolve()}", 1, (2,))
