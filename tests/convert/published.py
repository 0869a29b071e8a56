"""What stands in config.json of decoders on the Hugging Face hub, by family and preset."""

from typing import Any

LLAMA3 = {
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
PUBLISHED: dict[tuple[str, str], dict[str, Any]] = {  # config.json on the hub, but for what no model is made of
    ("llama", "3.2-1b"): {
        "model_type": "llama", "attention_bias": False, "attention_dropout": 0.0, "head_dim": 64, "hidden_act": "silu",
        "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 131_072,
        "mlp_bias": False, "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
        "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_scaling": {**LLAMA3, "factor": 32.0}, "rope_theta": 500_000.0,
        "tie_word_embeddings": True, "vocab_size": 128_256,
    },
    ("llama", "mistral-7b-v0.1"): {
        "model_type": "mistral", "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
        "intermediate_size": 14336, "max_position_embeddings": 32_768, "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0,
        "sliding_window": 4096, "tie_word_embeddings": False, "vocab_size": 32_000,
    },
    ("llama", "qwen2.5-7b"): {
        "model_type": "qwen2", "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 3584,
        "initializer_range": 0.02, "intermediate_size": 18944, "max_position_embeddings": 32_768,
        "max_window_layers": 28, "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
        "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0, "sliding_window": 131_072, "tie_word_embeddings": False,
        "use_mrope": False, "use_sliding_window": False, "vocab_size": 152_064,
    },
    ("llama", "smollm3-3b"): {
        "model_type": "smollm3", "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu",
        "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 11008, "max_position_embeddings": 65_536,
        "layer_types": ["full_attention"] * 36, "max_window_layers": 28, "mlp_bias": False,
        "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0] * 9, "num_attention_heads": 16,
        "num_hidden_layers": 36, "num_key_value_heads": 4, "pretraining_tp": 2, "rms_norm_eps": 1e-6,
        "rope_scaling": None, "rope_theta": 5_000_000.0, "sliding_window": None, "use_sliding_window": False,
        "vocab_size": 128_256,
    },
    ("qwen3", "0.6b"): {
        "model_type": "qwen3", "attention_bias": False, "attention_dropout": 0.0, "head_dim": 128,
        "hidden_act": "silu", "hidden_size": 1024, "initializer_range": 0.02, "intermediate_size": 3072,
        "max_position_embeddings": 40_960, "max_window_layers": 28, "num_attention_heads": 16,
        "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-6, "rope_scaling": None,
        "rope_theta": 1_000_000, "sliding_window": None, "tie_word_embeddings": True, "use_sliding_window": False,
        "vocab_size": 151_936,
    },
    ("olmo", "2-7b"): {
        "model_type": "olmo2", "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 11008, "max_position_embeddings": 4096,
        "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-6,
        "rope_scaling": None, "rope_theta": 500_000, "tie_word_embeddings": False, "vocab_size": 100_352,
    },
    ("olmo", "3-7b"): {
        "model_type": "olmo3", "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 11008, "max_position_embeddings": 65_536,
        "layer_types": [*["sliding_attention"] * 3, "full_attention"] * 8, "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 32, "rms_norm_eps": 1e-6, "rope_theta": 500_000,
        "rope_scaling": {"attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0, "factor": 8.0,
                         "original_max_position_embeddings": 8192, "rope_type": "yarn"},
        "sliding_window": 4096, "tie_word_embeddings": False, "vocab_size": 100_278,
    },
    ("gemma3", "1b"): {
        "model_type": "gemma3_text", "attention_bias": False, "attn_logit_softcapping": None,
        "final_logit_softcapping": None, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 1152, "initializer_range": 0.02, "intermediate_size": 6912, "max_position_embeddings": 32_768,
        "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1, "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6, "rope_local_base_freq": 10_000, "rope_scaling": None, "rope_theta": 1_000_000,
        "sliding_window": 512, "sliding_window_pattern": 6, "vocab_size": 262_144,
    },
    ("gemma3", "27b"): {
        "model_type": "gemma3", "initializer_range": 0.02, "vision_config": {"model_type": "siglip_vision_model"},
        "text_config": {
            "model_type": "gemma3_text", "head_dim": 128, "hidden_size": 5376, "intermediate_size": 21504,
            "num_attention_heads": 32, "num_hidden_layers": 62, "num_key_value_heads": 16,
            "query_pre_attn_scalar": 168, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 1024,
        },
    },
}  # fmt: skip
