"""What a config.json says is taken as JSON has it: a number is no text, true is no number, and 0 asks for nothing."""

from pathlib import Path
from typing import Any

import pytest

from phalanx.convert.config_json import model_of
from phalanx.errors import InputError

FILE = Path("there/config.json")
LLAMA: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 27, "hidden_size": 32,
    "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 32, "rms_norm_eps": 1e-5, "rope_theta": 10_000, "tie_word_embeddings": True,
    "attention_dropout": 0, "initializer_range": 0.02, "hidden_act": "silu",
}  # fmt: skip
BERT: dict[str, Any] = {
    "model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 27, "hidden_size": 32,
    "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 32,
    "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.1, "num_labels": 3, "is_decoder": False,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 27, "n_embd": 32, "n_layer": 2,
    "n_head": 4, "n_positions": 32, "n_inner": 64, "layer_norm_epsilon": 1e-5, "resid_pdrop": 0.1,
    "scale_attn_weights": True,
}  # fmt: skip
ROBERTA = BERT | {
    "model_type": "roberta", "architectures": ["RobertaForSequenceClassification"], "max_position_embeddings": 34,
    "pad_token_id": 1, "type_vocab_size": 1,
}  # fmt: skip
DISTILBERT: dict[str, Any] = {
    "model_type": "distilbert", "architectures": ["DistilBertForSequenceClassification"], "vocab_size": 27, "dim": 32,
    "hidden_dim": 64, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 32, "dropout": 0.1, "num_labels": 3,
    "attention_dropout": 0.1, "seq_classif_dropout": 0.2, "initializer_range": 0.02, "tie_word_embeddings": True,
}  # fmt: skip
FOLDERS = {
    "llama": LLAMA, "mistral": LLAMA | {"model_type": "mistral", "sliding_window": None},
    "qwen2": LLAMA | {"model_type": "qwen2", "use_sliding_window": False}, "bert": BERT, "gpt2": GPT2,
    "roberta": ROBERTA, "distilbert": DISTILBERT,
}  # fmt: skip


YARN = {"rope_type": "yarn", "factor": 4.0}
FRACTIONS = "rope_theta", "attention_dropout"  # numbers that need not be whole, though these here are
MAY_BE_ZERO = "type_vocab_size", "pad_token_id"


@pytest.mark.parametrize("kind", FOLDERS)
def test_odd_values_are_refused_by_key_and_value(kind: str) -> None:
    facts = FOLDERS[kind]
    model_of(facts, FILE)
    numbers = {key: value for key, value in facts.items() if isinstance(value, bool | int | float)}
    for key, usual in numbers.items():
        wrong: list[Any] = [str(usual).lower(), [usual], {"a": usual}]
        if isinstance(usual, bool):
            wrong += [int(usual), float(usual), int(not usual)]
        elif isinstance(usual, int | float):
            wrong += [True, False, -1, -1.0, 10**400, float("inf")]
        if type(usual) is int and key not in FRACTIONS:
            wrong += [usual + 0.5, float(usual), 1 << 31, *([0] if key not in MAY_BE_ZERO else [])]
        for value in wrong:
            with pytest.raises(InputError, match=rf"^{FILE}: ?.*{key}") as refused:
                model_of(facts | {key: value}, FILE)
            assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("more", "said"),
    [({"rope_parameters": {"rope_theta": "1e4"}}, "rope_theta='1e4'"), ({"head_dim": 7}, "head_dim=7 is not even"),
     ({"num_key_value_heads": 3}, "num_key_value_heads=3 does not divide num_attention_heads=4"),
     ({"rope_scaling": YARN | {"original_max_position_embeddings": 1 << 31}}, "original_max_position_embeddings=214"),
     ({"rope_scaling": YARN, "rope_theta": 1}, "rope_theta=1 gives no .* rope_type=yarn goes"),
     ({"model_type": "gemma3_text", "sliding_window": 1 << 31}, "sliding_window=214"),
     ({"mlp_bias": 0}, "mlp_bias=0"), ({"hidden_act": "relu"}, "hidden_act='relu'"),
     ({"auto_map": {"AutoModel": "mine.Model"}}, "auto_map=")],
)  # fmt: skip
def test_refusals_have_the_names_of_the_file(more: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=rf"^{FILE}: {said}"):
        model_of(LLAMA | more, FILE)


@pytest.mark.parametrize("more", [{"partial_rotary_factor": None}, {"auto_map": {}}, {"hidden_act": "swish"}])
def test_what_asks_for_nothing_unusual_is_taken(more: dict[str, Any]) -> None:
    assert model_of(LLAMA | more, FILE)[0] == model_of(LLAMA, FILE)[0]
    with pytest.raises(InputError, match="hidden_act='swish'"):  # which is no GELU
        model_of(ROBERTA | {"hidden_act": "swish"}, FILE)


def test_values_that_mean_nothing_else_are_taken() -> None:
    model, _ = model_of(LLAMA | {"head_dim": None, "num_key_value_heads": None, "partial_rotary_factor": 1}, FILE)
    assert (model.width, model.kv_heads) == (8, 4)  # type: ignore[attr-defined]
