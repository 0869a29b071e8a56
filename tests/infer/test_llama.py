"""A Llama of Hugging Face's is imported, writes what transformers writes, and goes back to the bit; also laid out."""

import json
import lzma
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer as Backend
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import phalanx
from phalanx.convert.huggingface import export_run, import_folder
from phalanx.convert.imported import Imported
from phalanx.data.tokenize import load_tokenizer
from phalanx.errors import InputError
from phalanx.infer import load_decoder
from phalanx.infer.sample import Options
from phalanx.run.folder import RunFolder
from phalanx.run.import_record import ImportRecord
from tests.interpreter import python

PROMPT, TOKENS = "The cat sat on", 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two key heads of a width of their own for four heads, with GPT-2's tokenizer."""
    path = tmp_path_factory.mktemp("llama") / "hf"
    config = LlamaConfig(
        vocab_size=50257, hidden_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=10,
        intermediate_size=56, num_hidden_layers=2, max_position_embeddings=64,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(path)
    packed = Path(phalanx.__file__).parent / "assets" / "tokenizers" / "gpt2.json.xz"
    (path / "tokenizer.json").write_bytes(lzma.decompress(packed.read_bytes()))
    return path


@pytest.fixture(scope="module")
def imported(folder: Path) -> Imported:
    return import_folder(folder, folder.parent / "run")


@pytest.fixture(scope="module")
def run(imported: Imported) -> Path:
    return imported.run


def test_a_text_begins_and_ends_as_there(imported: Imported, folder: Path, tmp_path: Path) -> None:
    """By config.json, and by the tokens that the tokenizer's template puts around a text; they go out as they came."""
    record = ImportRecord.read(RunFolder(imported.run))
    assert (record.begin, record.ends, imported.otherwise) == (1, (2,), ())
    assert load_decoder(imported.run, "torch").engine.stop_tokens == (2,)
    export_run(imported.run, tmp_path / "back")
    facts = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (facts["bos_token_id"], facts["eos_token_id"]) == (1, 2)
    words = json.loads((tmp_path / "back" / "tokenizer_config.json").read_text())
    assert (words["bos_token"], words["eos_token"]) == ('"', "#")

    shutil.copytree(folder, tmp_path / "hf")
    file = tmp_path / "hf" / "tokenizer.json"
    facts = json.loads(file.read_text())
    end = {"id": "<|endoftext|>", "ids": [50256], "tokens": ["<|endoftext|>"]}
    begin, text = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    template = {"single": [begin, text], "pair": [begin, text, text], "special_tokens": {"<|endoftext|>": end}}
    file.write_text(json.dumps({**facts, "post_processor": {"type": "TemplateProcessing", **template}}))
    assert import_folder(tmp_path / "hf", tmp_path / "run").otherwise == ()

    gpt, theirs = load_decoder(tmp_path / "run", "torch"), PreTrainedTokenizerFast(tokenizer_file=str(file))
    assert gpt.encode(PROMPT) == theirs(PROMPT)["input_ids"] and gpt.encode(PROMPT)[0] == 50256
    assert gpt.encode("") == theirs("")["input_ids"] == [50256]

    template["single"].append(begin)
    file.write_text(json.dumps({**facts, "post_processor": {"type": "TemplateProcessing", **template}}))
    (behind,) = import_folder(tmp_path / "hf", tmp_path / "another").otherwise
    assert behind == "the tokenizer there puts '<|endoftext|>' behind every text; here behind prompts alone"


def test_every_end_that_generation_config_tells_ends_a_text(folder: Path, tmp_path: Path) -> None:
    """And goes out again, so that transformers ends there too; a chat's end of turn beside the end of a document."""
    hf = Path(shutil.copytree(folder, tmp_path / "hf"))
    (hf / "generation_config.json").write_text(json.dumps({"bos_token_id": 7, "eos_token_id": [5, 50256, 9]}))
    run = import_folder(hf, tmp_path / "run").run
    assert load_decoder(run, "torch").engine.stop_tokens == (5, 50256, 9)
    export_run(run, tmp_path / "back")
    theirs = GenerationConfig.from_pretrained(tmp_path / "back")
    assert (theirs.bos_token_id, theirs.eos_token_id) == (7, [5, 50256, 9])
    assert ImportRecord.read(RunFolder(import_folder(tmp_path / "back", tmp_path / "again").run)).ends == (5, 50256, 9)

    (hf / "generation_config.json").unlink()
    words = Backend.from_file(str(hf / "tokenizer.json"))
    facts = json.loads(words.to_str())
    facts["added_tokens"].append({**facts["added_tokens"][0], "id": 60, "content": words.id_to_token(60)})
    (hf / "tokenizer_config.json").write_text(json.dumps({"eos_token": words.id_to_token(60)}))
    (hf / "tokenizer.json").write_text(json.dumps(facts))
    chat = load_decoder(import_folder(hf, tmp_path / "chat").run, "torch")
    assert (chat.engine.stop_tokens, chat.tokenizer.eod) == ((60, 50256), 50256)
    export_run(tmp_path / "chat", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["eos_token"] == words.id_to_token(60)
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == [60, 50256]


def test_a_token_that_is_none_does_not_go_out(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    ImportRecord(ends=(999_999,)).write(RunFolder(copy))
    with pytest.raises(InputError, match="token 999999 is not in the vocabulary"):
        export_run(copy, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


@pytest.fixture(scope="module")
def expected(folder: Path) -> str:
    """What transformers writes, greedily."""
    tokenizer = load_tokenizer(str(folder))
    tokens = torch.tensor([tokenizer.encode(PROMPT)])
    model = LlamaForCausalLM.from_pretrained(folder)
    found = model.generate(tokens, max_new_tokens=TOKENS, do_sample=False, pad_token_id=0)
    return tokenizer.decode(found[0, tokens.shape[1] :].tolist())


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_it_writes_what_transformers_writes(run: Path, expected: str, backend: str) -> None:
    """The kernels know GPT-2's kind alone: where the choice is free it falls on torch."""
    found = "".join(load_decoder(run, backend).generate(PROMPT, Options(max_tokens=TOKENS, temperature=0)))
    assert found == expected


def test_laid_out_over_more_ranks_than_key_heads(run: Path, expected: str) -> None:
    words = [
        python(),
        "-m",
        "phalanx",
        "generate",
        str(run),
        PROMPT,
        "--tokens",
        str(TOKENS),
        "--greedy",
        "layout.tp=4",
    ]
    told = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (0, f"{PROMPT}{expected}\n"), told.stderr


def test_it_goes_back_to_the_bit(run: Path, folder: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "back")
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    before, after = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path / "back"))
    assert after["architectures"] == ["LlamaForCausalLM"] and after["rope_parameters"] == before["rope_parameters"]
