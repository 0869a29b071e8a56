"""Llama's relatives by the engine that converts all: grouped queries, gates and untied heads in and out, bit-equal."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from phalanx.config import Config, DataConfig
from phalanx.convert.config_json import facts_of, model_of
from phalanx.convert.folder import Weights
from phalanx.convert.huggingface import compared, read_folder
from phalanx.convert.linked import exported, imported
from phalanx.errors import InputError
from phalanx.models.family import hugging_face
from phalanx.models.llama import HUGGING_FACE, LlamaConfig
from phalanx.spec.links import links
from phalanx.spec.model import WORDS
from tests.convert.folders import tokenizer_of
from tests.convert.test_foreign import ODD, cases

SIZES = {"vocab_size": 21, "hidden_size": 24, "num_hidden_layers": 2, "intermediate_size": 28, "rms_norm_eps": 1e-5,
         "max_position_embeddings": 16}  # fmt: skip
MANY: dict[str, Any] = {"num_attention_heads": 6, "num_key_value_heads": 2}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", MANY),
    "tied": ("Llama", {**MANY, "tie_word_embeddings": True}),
    "one key head": ("Llama", {"num_attention_heads": 4, "num_key_value_heads": 1}),
    "as many": ("Llama", {"num_attention_heads": 4, "num_key_value_heads": 4}),
    "its own width": ("Llama", {**MANY, "head_dim": 10}),
    "mistral": ("Mistral", {**MANY, "sliding_window": None}),
    "a window over all": ("Mistral", {**MANY, "sliding_window": 16}),
    "qwen2": ("Qwen2", {**MANY, "tie_word_embeddings": True, "rope_theta": 1e6}),
}


@pytest.fixture(params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A small random model of theirs."""
    name, facts = MODELS[request.param]
    torch.manual_seed(1)
    config = getattr(transformers, f"{name}Config")(**SIZES, **facts)
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    model.save_pretrained(tmp_path)
    return tmp_path


def read(folder: Path) -> LlamaConfig:
    """The section of [model] that a folder's config.json gives."""
    model, _ = model_of(json.loads((folder / "config.json").read_text()), folder / "config.json")
    assert isinstance(model, LlamaConfig)
    return model


def test_there_and_back_is_bit_equal(folder: Path) -> None:
    model = read(folder)
    spec, names = model.spec(), HUGGING_FACE["llama"].names
    contents = compared(folder, Weights(folder), spec, names)
    assert not contents.missing and not contents.unused
    ours = imported(contents.links, Weights(folder))
    assert {one.name: one.shape for one in spec.parameters()} == {one: tuple(ours[one].shape) for one in ours}
    assert ours[WORDS][model.vocab :].count_nonzero() == 0

    theirs = load_file(folder / "model.safetensors")
    back = exported(links(spec, names), dict(ours))
    assert back.keys() == theirs.keys() - ({"lm_head.weight"} if model.tied else set())
    assert all(torch.equal(back[one], theirs[one]) for one in back)


def test_heads_and_gates_are_where_attention_reads_them(folder: Path) -> None:
    """A group's queries, then its key, then its value; the gate before up."""
    model, theirs = read(folder), load_file(folder / "model.safetensors")
    contents = compared(folder, Weights(folder), model.spec(), HUGGING_FACE["llama"].names)
    ours, block = imported(contents.links, Weights(folder)), "transformer.blocks.1."
    q, k, v = (theirs[f"model.layers.1.self_attn.{part}_proj.weight"] for part in "qkv")
    width, group = model.width, model.heads // model.kv_heads
    rows = []
    for number in range(model.kv_heads):
        rows += [*q.split(width)[group * number : group * (number + 1)], k.split(width)[number], v.split(width)[number]]
    assert torch.equal(ours[f"{block}attention.qkv.weight"], torch.cat(rows))
    mlp = [theirs[f"model.layers.1.mlp.{part}_proj.weight"] for part in ("gate", "up")]
    assert torch.equal(ours[f"{block}feed_forward.up.weight"], torch.cat(mlp))


def test_what_is_written_is_read_again(folder: Path, tmp_path: Path) -> None:
    """By us, and by their class."""
    model = read(folder)
    config = Config(task="clm", model=model, data=DataConfig(sequence=model.positions))
    facts = facts_of(config, tokenizer_of("gpt2"))
    assert model_of(facts, tmp_path)[0].spec() == model.spec()
    config_class = getattr(transformers, facts["architectures"][0].replace("ForCausalLM", "Config"))
    config_there = config_class(**facts)
    theirs = json.loads((folder / "config.json").read_text())
    same = ("rope_parameters", "head_dim", "num_key_value_heads", "tie_word_embeddings", "rms_norm_eps")
    assert all(getattr(config_there, key, None) == theirs[key] for key in same if key in theirs)
    assert not getattr(config_there, "sliding_window", None)


def test_older_files_say_the_same() -> None:
    """Null and absent keys, and the base of rotary positions by itself."""
    old = {"num_attention_heads": 4, "hidden_size": 32, "num_key_value_heads": None, "head_dim": None}
    section = HUGGING_FACE["llama"].read({**old, "rope_theta": 5e5, "rope_scaling": None})
    assert (section["kv_heads"], section["width"], section["theta"], section["tied"]) == (4, 8, 5e5, False)
    section = HUGGING_FACE["llama"].read({**old, "rope_scaling": {"type": "default"}})
    assert section["theta"] == 10_000.0
    for new in {"rope_theta": 1e6}, {"rope_theta": 1e6, "rope_type": "default"}:
        assert HUGGING_FACE["llama"].read({**old, "rope_theta": 1.0, "rope_parameters": new})["theta"] == 1e6
    wide = {"sliding_window": 32768, "max_window_layers": 28, "use_sliding_window": False, "num_key_value_heads": 2}
    assert HUGGING_FACE["qwen2"].read({**old, **wide})["kv_heads"] == 2
    full = {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["full_attention"]}
    assert HUGGING_FACE["qwen2"].read({**old, **full})["qkv_bias"]


@pytest.mark.parametrize(
    ("kind", "facts", "said"),
    [
        ("llama", {"rope_parameters": {"rope_type": ["a"]}}, "not known"),
        ("llama", {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "'full_attention'="),
        ("llama", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ("llama", {"rms_norm_eps": None}, "rms_norm_eps is null"),
        ("llama", {"rope_scaling": 2.0}, "rope_scaling=2.0 will not do"),
        ("mistral", {"sliding_window": "8"}, "sliding_window='8'"),
    ],
)
def test_what_is_not_there_is_refused(kind: str, facts: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        HUGGING_FACE[kind].read({"num_attention_heads": 4, "hidden_size": 32, **facts})


@pytest.mark.parametrize("folder", ["llama"], indirect=True)
@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"attention_bias": True}, "attention_bias=True is not known"),
        ({"mlp_bias": True}, "mlp_bias=True is not known"),
        ({"hidden_act": "relu"}, "hidden_act='relu' is not known"),
        ({"quantization_config": {"bits": 4}}, "quantization_config="),
        ({"num_key_value_heads": 4}, "num_key_value_heads=4 does not divide"),
        ({"num_key_value_heads": "two"}, "num_key_value_heads='two' will not do"),
        ({"rope_parameters": {"rope_theta": "far"}}, "rope_theta='far' will not do"),
        ({"tie_word_embeddings": 3}, "tie_word_embeddings=3 will not do"),
    ],
)
def test_a_folder_that_asks_for_something_else(folder: Path, facts: dict[str, Any], said: str) -> None:
    file = folder / "config.json"
    with pytest.raises(InputError, match=said) as error:
        model_of({**json.loads(file.read_text()), **facts}, file)
    assert str(file) in str(error.value)


def test_any_facts() -> None:
    """Whatever stands in a config.json, it is read or refused in one line."""
    forms = {kind: form for name in ("llama", "qwen3", "olmo", "gemma3") for kind, form in hugging_face(name).items()}
    names = [*HUGGING_FACE["llama"].keys.values(), "rope_scaling", "rope_parameters", "rope_type", "sliding_window",
             "use_sliding_window", "layer_types", "max_window_layers", "factor", "full_attention", "beta_slow",
             "no_rope_layers", "attention_factor", "original_max_position_embeddings"]  # fmt: skip
    odd = st.dictionaries(st.sampled_from(names), ODD | st.dictionaries(st.sampled_from(names), ODD, max_size=2))

    @cases(150)
    @given(st.sampled_from([*forms]), odd)
    def run(kind: str, facts: dict[str, Any]) -> None:
        try:
            section = forms[kind].read(facts)
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 500
        else:
            assert "theta" in section

    run()


@pytest.mark.parametrize("folder", ["tied"], indirect=True)
def test_a_tied_head_may_come_twice(folder: Path) -> None:
    """With the same numbers; its own are those of another model, which config.json has to say."""
    tensors = load_file(folder / "model.safetensors")
    spec, names, words = read(folder).spec(), HUGGING_FACE["llama"].names, tensors["model.embed_tokens.weight"]
    save_file({**tensors, "lm_head.weight": words.clone()}, folder / "model.safetensors")
    assert compared(folder, Weights(folder), spec, names).unused == []
    save_file({**tensors, "lm_head.weight": words + 1}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight") as refused:
        read_folder(folder)
    assert "tie_word_embeddings is true" in str(refused.value) and "set it to false" in str(refused.value)


@pytest.mark.parametrize("folder", ["llama"], indirect=True)
def test_the_stack_alone_lacks_its_head(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file({name.removeprefix("model."): one for name, one in tensors.items()}, folder / "model.safetensors")
    contents = compared(folder, Weights(folder), read(folder).spec(), HUGGING_FACE["llama"].names)
    assert contents.missing == {"head.weight": "lm_head.weight"} and not contents.unused
    assert imported(contents.links, Weights(folder))["transformer.norm.weight"].shape == (24,)
