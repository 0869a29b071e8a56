"""Parameter counts of every preset against published ones, and the description against built models."""

from typing import Any

import pytest
import torch
from torch import nn

from phalanx import registry
from phalanx.config import ModelConfig
from phalanx.errors import InputError
from phalanx.models import build
from phalanx.models import family as families
from phalanx.models.family import configured, spec_of
from tests.spec.models import DECODERS

PUBLISHED = [
    ("gpt2", "124m", 50257, 124_439_808),
    ("gpt2", "355m", 50257, 354_823_168),
    ("gpt2", "774m", 50257, 774_030_080),
    ("gpt2", "1.5b", 50257, 1_557_611_200),
    ("gpt2", "355m", 50304, 354_871_296),
    ("gpt2", "1.2b", 50304, 1_212_103_680),
    ("gpt2", "1.2b", 51200, 1_213_479_936),
    ("gpt2", "2.5b", 50432, 2_488_934_400),
    ("gpt2", "2.5b", 51200, 2_490_408_960),
    ("gpt2", "4.2b", 50688, 4_197_929_472),
    ("gpt2", "4.2b", 51200, 4_199_109_120),
    ("gpt2", "8.3b", 51200, 8_317_040_640),
    ("llama", "2-7b", 32000, 6_738_415_616),
    ("llama", "2-70b", 32000, 68_976_648_192),
    ("llama", "3-8b", 128_256, 8_030_261_248),
    ("llama", "3-70b", 128_256, 70_553_706_496),
    ("llama", "3.1-8b", 128_256, 8_030_261_248),
    ("llama", "3.1-70b", 128_256, 70_553_706_496),
    ("llama", "3.1-405b", 128_256, 405_853_388_800),
    ("llama", "3.2-1b", 128_256, 1_235_814_400),
    ("llama", "3.2-3b", 128_256, 3_212_749_824),
    ("llama", "tinyllama-1.1b", 32000, 1_100_048_384),
    ("llama", "smollm2-135m", 49152, 134_515_008),
    ("llama", "smollm2-360m", 49152, 361_821_120),
    ("llama", "smollm2-1.7b", 49152, 1_711_376_384),
    ("llama", "smollm3-3b", 128_256, 3_075_098_624),
    ("llama", "mistral-7b", 32768, 7_248_023_552),
    ("llama", "mistral-7b-v0.1", 32000, 7_241_732_096),
    ("llama", "mistral-nemo-12b", 131_072, 12_247_782_400),
    ("llama", "qwen2-0.5b", 151_936, 494_032_768),
    ("llama", "qwen2.5-0.5b", 151_936, 494_032_768),
    ("llama", "qwen2.5-1.5b", 151_936, 1_543_714_304),
    ("llama", "qwen2.5-3b", 151_936, 3_085_938_688),
    ("llama", "qwen2.5-7b", 152_064, 7_615_616_512),
    ("qwen3", "0.6b", 151_936, 596_049_920),
    ("qwen3", "1.7b", 151_936, 1_720_574_976),
    ("qwen3", "4b", 151_936, 4_022_468_096),
    ("qwen3", "8b", 151_936, 8_190_735_360),
    ("qwen3", "14b", 151_936, 14_768_307_200),
    ("qwen3", "32b", 151_936, 32_762_123_264),
    ("olmo", "2-1b", 100_352, 1_484_916_736),
    ("olmo", "2-7b", 100_352, 7_298_617_344),
    ("olmo", "2-13b", 100_352, 13_716_198_400),
    ("olmo", "2-32b", 100_352, 32_234_279_936),
    ("olmo", "3-7b", 100_278, 7_298_011_136),
    ("gemma3", "270m", 262_144, 268_098_176),
    ("gemma3", "1b", 262_144, 999_885_952),
    ("gemma3", "4b", 262_208, 3_880_263_168),
    ("gemma3", "12b", 262_208, 11_766_034_176),
    ("gemma3", "27b", 262_208, 27_009_346_304),
    ("bert", "base", 30522, 110_106_428),
    ("bert", "large", 30522, 336_226_108),
    ("bert", "large", 30528, 336_232_258),
    ("bert", "megatron-345m", 30592, 336_297_858),
    ("bert", "megatron-1.3b", 30592, 1_280_739_202),
    ("bert", "megatron-3.9b", 30592, 3_869_260_674),
    ("roberta", "base", 50265, 124_697_433),
    ("roberta", "large", 50265, 355_412_057),
    ("xlm-roberta", "base", 250_002, 278_295_186),
    ("xlm-roberta", "large", 250_002, 560_142_482),
    ("modernbert", "base", 50368, 149_655_232),
    ("modernbert", "large", 50368, 395_881_664),
    ("distilbert", "base", 30522, 66_985_530),
    ("distilbert", "base", 28996, 65_812_036),
]

PRESETS = [(name, preset) for name in registry.MODELS.places for preset in families.family(name).PRESETS]


def config_of(family: str, preset: str, vocab: int) -> ModelConfig:
    return configured(**families.with_preset({"family": family, "preset": preset, "vocab": vocab}))


def on_meta(config: ModelConfig) -> nn.Module:
    with torch.device("meta"):
        return build.make(config)


@pytest.mark.parametrize(("family", "preset", "vocab", "count"), PUBLISHED)
def test_the_count_is_the_published_one(family: str, preset: str, vocab: int, count: int) -> None:
    assert spec_of(config_of(family, preset, vocab)).elements == count


def test_every_large_preset_is_published() -> None:
    published = {(family, preset) for family, preset, _, _ in PUBLISHED}
    assert set(PRESETS) - published == {("bert", "tiny"), ("bert", "mini"), ("bert", "small")}


@pytest.mark.parametrize(("family", "preset"), PRESETS)
def test_a_built_model_has_that_count_and_padding(family: str, preset: str) -> None:
    config = configured(**families.with_preset({"family": family, "preset": preset, "vocab": 30522, "layers": 6}))
    built = sum(parameter.numel() for parameter in on_meta(config).parameters())
    rows = (config.padded_vocab - config.vocab) * (1 if spec_of(config).tied else 2)  # a head of its own has them too
    assert rows in (70, 140)
    assert built - rows * config.hidden == spec_of(config).elements


@pytest.mark.parametrize("family", ["gpt2", "bert", "roberta", "distilbert", "modernbert"])
def test_the_count_of_an_odd_shape(family: str) -> None:
    config = configured(family=family, layers=3, hidden=40, heads=5, ffn=56, positions=12, vocab=77)
    built = sum(parameter.numel() for parameter in on_meta(config).parameters())
    assert built - (128 - 77) * 40 == spec_of(config).elements


def test_presets_are_planned_with_their_own_vocabulary() -> None:
    for family, preset, vocab, _ in PUBLISHED:
        assert family not in DECODERS or config_of(family, preset, 0).usual_vocab == vocab


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"rope_scaling": "yarn", "rope_factor": 4.0}, "model.rope_scaling=yarn needs model.rope_original"),
        ({"rope_scaling": "llama3", "rope_original": 16, "rope_low": 9.0}, "model.rope_low=9 is not less than"),
        ({"window_layers": "12"}, "model.window_layers=12 will not do; it takes a 1 or a 0 for each layer"),
        ({"rope_layers": ""}, "model.rope_layers= will not do"),
        ({"width": 7}, "model.width=7 is not even"),
        ({"kv_heads": 3}, "model.kv_heads=3 does not divide model.heads=4"),
        ({"heads": 5}, "model.heads=5 does not divide model.hidden=32"),
    ],
)
def test_sizes_that_no_decoder_has(words: dict[str, Any], said: str) -> None:
    for family in DECODERS:
        model = configured(**{"family": family, "layers": 2, "hidden": 32, "heads": 4, "vocab": 27, **words})
        with pytest.raises(InputError, match=said):
            spec_of(model)


def test_layers_are_a_pattern_that_is_repeated() -> None:
    keys = {"family": "olmo", "layers": 7, "hidden": 32, "heads": 4, "vocab": 27, "window": 8}
    spec = spec_of(configured(**keys, window_layers="110", rope_layers="10"))
    assert [block.attention.window for block in spec.blocks] == [8, 8, 0, 8, 8, 0, 8]
    assert [block.attention.rope is not None for block in spec.blocks] == [True, False] * 3 + [True]


def test_own_keys_override_the_preset() -> None:
    section = families.with_preset({"family": "bert", "preset": "large", "layers": 3})
    assert (section["layers"], section["hidden"]) == (3, 1024)


def test_padding_does_not_depend_on_anything_but_the_vocabulary() -> None:
    sizes = [configured(vocab=vocab) for vocab in (1, 128, 129, 50257, 50304)]
    assert [size.padded_vocab for size in sizes] == [128, 128, 256, 50304, 50304]
