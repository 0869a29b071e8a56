"""Every kind of decoder goes in and out of Hugging Face's folders bit-equal, and its config.json says what it is."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from phalanx.config import Config, DataConfig, ModelConfig
from phalanx.convert.config_json import facts_of, form_of, model_of
from phalanx.convert.folder import Weights
from phalanx.convert.huggingface import compared
from phalanx.convert.imported import MOST, Imported
from phalanx.convert.linked import exported, imported
from phalanx.errors import InputError
from phalanx.models.family import configured, spec_of, with_preset
from phalanx.nn.model import Model
from phalanx.spec.links import links
from tests.batches import batch_of
from tests.convert.folders import tokenizer_of
from tests.convert.published import PUBLISHED
from tests.decoders import KINDS, SIZES, VOCAB, WINDOW, class_of, folder_of

FILE = Path("there/config.json")
SIZE = {
    "vocab_size": 27, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "max_position_embeddings": 32, "head_dim": 8, "num_key_value_heads": 2,
}  # fmt: skip


def read(facts: dict[str, Any]) -> ModelConfig:
    """The section of [model] of a config.json's content."""
    return model_of(facts, FILE)[0]


def of(kind: str, **facts: Any) -> ModelConfig:
    """The same of a small model of a model_type."""
    return read({**SIZE, "model_type": kind, **facts})


def all_of(some: Any, more: Any) -> bool:
    """Whether all that stands in one of config.json's objects stands in the other, where usual values stand too."""
    if not isinstance(some, dict):
        return bool(some == more)
    return all(all_of(value, more.get(key)) for key, value in some.items())


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(tmp_path: Path, kind: str) -> None:
    """Every tensor to the bit, in one file or in several; and what config.json says, read again by us and by them."""
    theirs = folder_of(tmp_path, kind)
    model, form = model_of(json.loads((tmp_path / "config.json").read_text()), tmp_path)
    spec, tensors = spec_of(model), load_file(tmp_path / "model.safetensors")
    contents = compared(tmp_path, Weights(tmp_path), spec, form.names)
    assert not contents.missing and not contents.unused
    ours = dict(imported(contents.links, Weights(tmp_path)))

    kind_there, out = form_of(model, "it")
    back = exported(links(spec, out.names), ours)
    assert back.keys() == tensors.keys() and all(torch.equal(back[name], tensors[name]) for name in tensors)
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    again = imported(compared(tmp_path / "parts", Weights(tmp_path / "parts"), spec, form.names).links,
                     Weights(tmp_path / "parts"))  # fmt: skip
    assert len([*(tmp_path / "parts").glob("*.safetensors")]) > 2
    assert all(torch.equal(again[name], ours[name]) for name in ours)

    config = Config(task="clm", model=model, data=DataConfig(sequence=model.positions))
    facts = facts_of(config, tokenizer_of("gpt2"))
    assert facts["model_type"] == kind_there == theirs.config.model_type
    assert read(facts) == model
    there = class_of(KINDS[kind][0], "Config")(**facts)
    assert all_of(theirs.config.rope_parameters, there.rope_parameters)
    for key in ("layer_types", "head_dim", "num_key_value_heads", "tie_word_embeddings",
                "rms_norm_eps", "no_rope_layers", "query_pre_attn_scalar", "sliding_window"):  # fmt: skip
        assert getattr(there, key, None) == getattr(theirs.config, key, None), key


def test_what_older_files_say() -> None:
    """Rotary positions by rope_theta and rope_scaling, whose type is called type; windows by a rule."""
    old = {"type": "llama3", "factor": 32, "low_freq_factor": 1, "high_freq_factor": 4}
    model: Any = of("llama", rope_theta=5e5, rope_scaling={**old, "original_max_position_embeddings": 16})
    assert (model.theta, model.rope_scaling, model.rope_factor, model.rope_original) == (5e5, "llama3", 32, 16)
    new = {"rope_theta": 5e5, "rope_type": "llama3", "original_max_position_embeddings": 16}
    assert of("llama", rope_parameters={**old, **new, "type": None}) == model
    model = of("llama", rope_scaling={"type": "yarn", "factor": 4.0, "mscale": 0.707, "mscale_all_dim": 1.0})
    assert model.rope_original == 32 and model.rope_magnitude == pytest.approx(0.9643269)

    def layers(model: Any) -> str:
        return "".join("01"[kind.windowed] for kind in model.kinds())

    assert layers(of("mistral", sliding_window=8)) == "1111"
    assert layers(of("mistral", sliding_window=None)) == layers(of("mistral", sliding_window=32)) == "0000"
    slides = {"use_sliding_window": True, "sliding_window": 8}
    assert layers(of("qwen2", **slides, max_window_layers=3)) == "0001"
    assert layers(of("qwen3", **slides, max_window_layers=9)) == layers(of("qwen3", sliding_window=8)) == "0000"
    assert layers(of("olmo3", sliding_window=8)) == "1110"
    assert layers(of("gemma3_text", sliding_window=8, sliding_window_pattern=2)) == "1010"
    model = of("gemma3_text", sliding_window=8, rope_theta=1e6, rope_local_base_freq=2e4,
               rope_scaling={"factor": 8.0, "rope_type": "linear"}, sliding_window_pattern=4)  # fmt: skip
    ropes = [block.attention.rope for block in spec_of(model).blocks]
    assert [(rope.theta, rope.factor) for rope in ropes if rope] == [(2e4, 1.0)] * 3 + [(1e6, 8.0)]
    model = of("smollm3")
    assert "".join("01"[kind.rotary] for kind in model.kinds()) == "1110" and model.theta == 2e6 and model.tied


@pytest.mark.parametrize(("family", "preset"), PUBLISHED)
def test_published_folders_are_the_presets(family: str, preset: str) -> None:
    made = with_preset({"family": family, "preset": preset})
    model = configured(**made, vocab=configured(**made).usual_vocab)
    assert spec_of(read(PUBLISHED[family, preset])) == spec_of(model)


SCALED = {"rope_type": "linear", "factor": 8.0}


@pytest.mark.parametrize(
    ("kind", "facts", "said"),
    [
        ("llama", {"rope_scaling": {"rope_type": "longrope", "factor": 4.0}}, "type 'longrope'"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "type 'dynamic'"),
        ("llama", {"rope_scaling": {"rope_type": "linear"}}, "need a factor"),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": "8"}}, "factor='8' will not do"),
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 8.0, "truncate": False}}, "'truncate'=False"),
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 8.0, "mrope_section": [1]}}, "'mrope_section'="),
        ("llama", {"rope_scaling": SCALED, "rope_parameters": {**SCALED, "factor": 4.0}}, "factor is said twice"),
        ("llama", {"rope_scaling": SCALED, "rope_parameters": {"rope_type": "default"}}, "rope_type is said twice"),
        (
            "llama",
            {"rope_scaling": {**SCALED, "rope_type": "llama3", "low_freq_factor": 4.0}},
            "low_freq_factor=4 is not",
        ),
        ("llama", {"rope_scaling": {"factor": 4.0, "type": "yarn"}, "rope_parameters": {"rope_theta": 1e4}}, "beside"),
        ("llama", {"rope_scaling": {"factor": 4.0, "type": "yarn"}, "rope_theta": 1.0}, "rope_theta=1 gives no"),
        ("llama", {"is_causal": False}, "is_causal=False"),
        (
            "llama",
            {"rope_scaling": {**SCALED, "rope_type": "yarn", "original_max_position_embeddings": "1"}},
            "original_max_position_embeddings='1' will",
        ),
        ("llama", {"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}}, "auto_map="),
        ("mistral", {"sliding_window": 8, "layer_types": ["full_attention"] * 4}, "not known of Mistral"),
        ("mistral", {"sliding_window": 0}, "sliding_window=0 will not do"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 4}, "use_sliding_window is not true"),
        ("qwen3", {"use_sliding_window": True, "layer_types": ["chunked_attention"] * 4}, "'chunked_attention'"),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["full_attention"]}, "each layer"),
        ("qwen3", {"attention_bias": True}, "attention_bias=True"),
        ("smollm3", {"no_rope_layers": [1, 2, 0, 1]}, "no_rope_layers="),
        ("smollm3", {"no_rope_layers": [1]}, "for each of 4 layers, not 1"),
        ("olmo2", {"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ("olmo3", {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}, "full_attention and sliding"),
        ("olmo3", {"sliding_window": 8, "rope_parameters": {"sliding_attention": {"rope_theta": 1e4}}}, "another"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping=50.0"),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping=30.0"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ("gemma3_text", {"hidden_activation": "gelu"}, "hidden_activation='gelu'"),
        ("gemma3_text", {"rope_parameters": {"sliding_attention": SCALED}}, "of sliding_attention are scaled"),
        ("gemma3", {}, "text_config=None will not do"),
        ("gemma2", {}, "model_type 'gemma2' is not known here: it has soft-caps"),
        ("gpt_oss", {}, "model_type 'gpt_oss' is not known here: it has attention sinks and mixtures of experts"),
        ("qwen3_moe", {}, "model_type 'qwen3_moe' is not known here: it has mixtures of experts"),
        ("mine", {"auto_map": {"AutoModel": "code.Mine"}}, "code of its own .auto_map., which is not run here"),
    ],
)
def test_what_is_not_there_is_refused_by_name(kind: str, facts: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=f"^{FILE}: .*{said}") as refused:
        of(kind, **facts)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({"family": "llama"}, "llama"),
        ({"family": "llama", "window": 8}, "mistral"),
        ({"family": "llama", "window": 8, "window_layers": "10"}, "smollm3"),
        ({"family": "llama", "rope_layers": "110"}, "smollm3"),
        ({"family": "llama", "window": 8, "window_layers": "10", "qkv_bias": True}, "qwen2"),
        ({"family": "olmo"}, "olmo2"),
        ({"family": "olmo", "window": 8}, "olmo3"),
        ({"family": "gemma3"}, "gemma3_text"),
        ({"family": "llama", "rope_layers": "10", "qkv_bias": True}, "has a|has layers|has biases"),
        ({"family": "qwen3", "rope_layers": "10"}, "has layers without rotary positions"),
        ({"family": "olmo", "rope_layers": "10", "window": 8}, "has a window|has layers"),
        ({"family": "gemma3", "rope_layers": "10"}, "has layers without rotary positions"),
    ],
)
def test_what_a_model_is_called_there(keys: dict[str, Any], kind: str) -> None:
    """By what it computes, whatever it was before; what they have not is told."""
    model = configured(**keys, layers=4, hidden=32, heads=4, vocab=27, positions=32)
    if not kind.startswith("has"):
        assert form_of(model, "it")[0] == kind
    else:
        with pytest.raises(InputError, match=f"it ({kind})"):
            form_of(model, "it")


def test_the_text_model_of_one_that_sees_images(tmp_path: Path) -> None:
    """Gemma 3's larger sizes: the facts of text_config, the tensors of language_model; the others are told in few
    words.
    """
    facts = {**SIZES, "sliding_window": WINDOW, "query_pre_attn_scalar": 24}
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    torch.manual_seed(0)
    theirs = Gemma3ForConditionalGeneration(Gemma3Config(text_config=facts, vision_config=vision)).eval()
    theirs.save_pretrained(tmp_path)
    model, form = model_of(json.loads((tmp_path / "config.json").read_text()), tmp_path)
    weights = Weights(tmp_path)
    contents = compared(tmp_path, weights, spec_of(model), form.names)
    ours = Model(spec_of(model)).eval()
    ours.load_state_dict(dict(imported(contents.links, weights)))

    tokens = torch.randint(VOCAB, (2, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(tokens).logits
        assert (ours(batch_of(tokens, model.positions)) - expected).abs().max() < 1e-4 * expected.abs().max()
    few = {key: facts[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "sliding_window")}
    model = read({"model_type": "gemma3", "text_config": few})  # as the published 4B's file leaves out the usual
    assert (model.vocab, model.heads, model.kv_heads, model.width) == (262_208, 8, 4, 256)  # type: ignore[attr-defined]
    assert form_of(model, "it")[0] == "gemma3_text" and not contents.missing and len(contents.unused) > MOST
    (_, told) = Imported(tmp_path, 1, (), tuple(contents.unused)).lines()
    assert told.endswith("multi_modal_projector.* (2), vision_tower.* (32)")
