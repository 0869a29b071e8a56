"""`phalanx models`: what there is, what one is made of, what can be done with it, and how what is not known is told."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from phalanx.cli.app import app
from phalanx.convert.huggingface import import_folder
from phalanx.errors import InputError
from phalanx.infer.card import card_of, facts, lines
from phalanx.models.presets import names
from phalanx.run.import_record import ModelSource
from tests.convert.folders import write_folder
from tests.convert.hub import hub_of
from tests.convert.smollm2 import smollm2  # noqa: F401


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("card") / "bert"
    write_folder(made, "bert")
    return made


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("card") / "megatron-bert"
    write_folder(made, "megatron-bert")
    return made


def told(*words: str) -> str:
    """What a command prints that ends well."""
    result = CliRunner().invoke(app, ["models", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_all_presets_are_listed() -> None:
    lines = told().splitlines()
    assert [line.split()[0] for line in lines[1 : len(names()) + 1]] == names()
    assert "model_type is gpt2, bert," in lines[-1]
    row = next(row for row in json.loads(told("--json")) if row["preset"] == "llama/3-8b")
    assert row == {
        "preset": "llama/3-8b", "parameters": 8_030_261_248, "layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8,
        "context": 8192, "vocabulary": 128_256,
    }  # fmt: skip


def test_a_preset_is_drawn() -> None:
    text = told("show", "llama/3-8b")
    for line in (
        "llama/3-8b: decoder, 8,030,261,248 parameters, 32 blocks of 4,096, context 8,192, vocabulary 128,256",
        "│  ├─ qkv                       6144 x 4096        805,306,368  10.0%  q, k, v",
        "  feed-forward  5,637,144,576  70.2%",
        "KV cache in bf16: 131,072 bytes a token, 1.00 GiB for 8,192 tokens",
        "  tune      completion",
        "  use       generate, serve",
        "            not native: it computes models of GPT-2's and BERT's kind alone",
        "            not onnxruntime, openvino, tensorrt: it computes no decoders; use auto, torch, native",
        "  export    hf, gguf",
        "            not megatron: Megatron-LM has pre-LN GPT-2 and BERT",
    ):
        assert line in text, text


def test_a_card_is_json_too() -> None:
    card = json.loads(told("show", "bert/base", "--json"))
    assert card["parameters"] == 110_106_428 == sum(card["kinds"].values())
    assert card["cache"] == 0 and card["uses"]["pretrain"] == "mlm"
    assert card["uses"]["tune"] == ["classes", "stsb", "squad", "swag", "tokens"]
    assert card["uses"]["verbs"] == ["fill", "embed"] and "fp32" in card["uses"]["backends"]["torch"]
    assert card["uses"]["exports"]["hf"] == "" and card["uses"]["exports"]["megatron"]
    qkv = next(row for row in card["tree"] if row["path"] == "transformer.blocks.0.attention.qkv")
    assert qkv["shape"] == [2304, 768] and qkv["copies"] == 12 and qkv["dtype"] == ""


def test_a_folder_and_the_run_of_it_have_the_types_of_their_weights(bert: Path, tmp_path: Path) -> None:
    state = {name: tensor.bfloat16() for name, tensor in load_file(bert / "model.safetensors").items()}
    folder = tmp_path / "bert"
    write_folder(folder, "bert")
    save_file(state, folder / "model.safetensors")
    import_folder(folder, tmp_path / "run")
    for name, dtype in ((f"hf:{folder}", "BF16"), (str(tmp_path / "run"), "F32")):
        card = facts(card_of(name))
        assert {row["dtype"] for row in card["tree"] if row["shape"]} == {dtype}
        assert card["uses"]["verbs"] == ("classify",) and card["uses"]["pretrain"] == "mlm"
    assert card["notes"] == [f"imported from hf:{folder}"]


def test_a_family_from_outside_is_drawn_like_any_other() -> None:
    card = facts(card_of("tests.strangers.families:Toy/mini"))
    assert card["layers"] == 2 and sum(card["kinds"].values()) == card["parameters"]
    assert card["vocabulary"] == 1 and "it is drawn with one word" in card["notes"][0]
    assert card["uses"]["verbs"] == ("generate",) and "has no name" not in card["uses"]["exports"]["hf"]
    assert "which Hugging Face does not have" in card["uses"]["exports"]["hf"]


def test_a_gguf_file_is_drawn_as_it_lies(smollm2: Path) -> None:  # noqa: F811
    card = facts(card_of(f"gguf:{smollm2}"))
    assert card["parameters"] == 134_515_008 and card["uses"]["verbs"] == ("generate",)


def test_a_head_that_the_folder_lacks_is_told(pretrained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    write_folder(folder, "megatron-bert")
    state = load_file(folder / "model.safetensors")
    save_file({name: state[name] for name in state if not name.startswith("cls.")}, folder / "model.safetensors")
    text = "\n".join(lines(card_of(f"hf:{folder}")))
    assert "  use       embed, serve\n            not fill: " in text
    assert f"not fill: hf:{folder} cannot fill masks: cls.predictions." in text
    assert facts(card_of(f"hf:{pretrained}"))["uses"]["verbs"] == ("fill", "embed")


def test_of_the_hub_the_small_files_are_enough(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with hub_of(monkeypatch, tmp_path / "cache") as hub:
        hub.add("acme/bert", bert)
        card = card_of("hf:acme/bert")
        assert not any((tmp_path / "cache").rglob("model.safetensors"))
        assert ("GET", "bytes=0-100000") in [(method, part) for method, _, part in hub.asked]
        assert set(card.dtypes.values()) == {"F32"} and card.dtype == "float32"

        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        card = card_of("hf:acme/bert")  # the headers are not kept
        first, note, *_ = lines(card)
        assert not card.dtypes and first.endswith(", float32") and note.startswith("its weights are not here")

        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        ModelSource.of("hf:acme/bert").local()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert set(card_of("hf:acme/bert").dtypes.values()) == {"F32"}


def test_what_the_weights_of_the_hub_are_not_is_told_by_their_headers(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "cut", "bert")
    state = load_file(bert / "model.safetensors")
    gone = next(name for name in state if "layer.1" in name)
    save_file({name: tensor for name, tensor in state.items() if name != gone}, tmp_path / "cut" / "model.safetensors")
    with hub_of(monkeypatch, tmp_path / "cache") as hub:
        hub.add("acme/cut", tmp_path / "cut")
        with pytest.raises(InputError, match=f"hf:acme/cut lacks the tensor {gone}"):
            card_of("hf:acme/cut")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"is_decoder": True}, r"is_decoder=True is not known here \(model_type bert\)"),
        ({"hidden_act": "relu"}, r"hidden_act='relu' will not do: the activations known here .* \(model_type bert\)"),
        ({"model_type": "mamba"}, "model_type 'mamba' is not known here; gpt2, bert, .* are"),
        ({"num_hidden_layers": None}, r"has no num_hidden_layers \(model_type bert\)"),
        ({"hidden_size": 7}, r"\(model_type bert\)"),
    ],
)
def test_what_a_folder_asks_that_is_not_there_is_one_line(
    bert: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    content = json.loads((bert / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | change))
    with pytest.raises(InputError, match=said) as refusal:
        card_of(f"hf:{tmp_path}")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("llama/3-8", r"llama has no preset 3-8; it has 2-7b, .*; did you mean llama/3-8b"),
        ("lama/3-8b", r"lama/3-8b is no run and no preset, .*; did you mean llama/3-8b"),
        ("llama", r"llama is a family; name one of its presets: llama/2-7b, "),
        (
            "runs/none",
            r"runs/none is no run and no preset, which .* a model of the hub hf:org/name$",
        ),
        ("megatron:345m", r"make a run of it first: phalanx import megatron:345m"),
        ("none.at_all:Family/big", r"model.family 'none.at_all:Family' cannot be loaded"),
        ("BERT", r"BERT is a folder of Hugging Face's, not a run; write hf:BERT"),
    ],
)
def test_a_name_that_is_none_is_told_with_what_is_near(bert: Path, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said.replace("BERT", str(bert))):
        card_of(name.replace("BERT", str(bert)))
