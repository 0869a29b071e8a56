"""Recipes: what loads, what is refused and how, and that a dumped configuration comes back equal."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from phalanx import recipe
from phalanx.config import Config, ModelConfig
from phalanx.errors import InputError
from phalanx.models import family as sizes
from phalanx.models.family import configured, spec_of
from phalanx.section import Section, help_of

NAMES = sorted(recipe.names())


def test_recipes_are_all_there_and_say_what_they_are() -> None:
    sizes = ["124m", "355m", "774m", "1.5b", "8.3b"]
    assert {f"gpt2-{size}" for size in sizes} <= set(NAMES)
    assert {"gpt-tiny", "bert-tiny", "bert-base", "bert-large-phase1", "bert-large-phase2"} <= set(NAMES)
    assert all(len(text) > 20 for text in recipe.names().values())


@pytest.mark.parametrize("name", NAMES)
def test_recipe_loads_and_comes_back_from_its_dump(name: str, tmp_path: Path) -> None:
    config = recipe.load(name)
    (tmp_path / "config.toml").write_text(recipe.dump(config))
    assert recipe.load(str(tmp_path / "config.toml")) == config


def _model(mapping: dict[str, Any], vocab: int) -> ModelConfig:
    return configured(**sizes.with_preset(mapping["model"]) | {"vocab": vocab})


@pytest.mark.parametrize("name", sorted({*NAMES} - {"finetune"}))  # whose model is another run's
def test_recipe_is_a_model_that_its_sequences_fit(name: str) -> None:
    mapping = recipe.load_mapping(name)
    model = _model(mapping, 30522)
    sizes.check(model)
    assert mapping["data"]["sequence"] <= model.positions
    assert mapping["task"] == sizes.family(model.family).TASK
    assert spec_of(model).segments == {"bert": 2, "roberta": 1}.get(model.family, 0)
    assert mapping["train"]["batch"] % mapping.get("layout", {}).get("micro_batch", 1) == 0


def test_largest_recipe_has_the_published_number_of_parameters() -> None:
    model = _model(recipe.load_mapping("gpt2-8.3b"), 50257)
    padded = model.model_copy(update={"vocab": model.padded_vocab})
    assert spec_of(padded).elements == 8_317_040_640


def test_dump_keeps_awkward_values_and_explains_every_key(tmp_path: Path) -> None:
    words = ["optim.lr=1.2345678901234567e-7", 'train.init=a "b"\\c\x7fé\n😀', "data.train=x@0.5,y", "optim.clip=0"]
    config = recipe.load("gpt-tiny", words)
    (path := tmp_path / "c.toml").write_text(text := recipe.dump(config))
    assert recipe.load(str(path)) == config
    assert config.optim.lr == 1.2345678901234567e-7 and config.train.init == 'a "b"\\c\x7fé\n😀'
    for section in (getattr(config, name) for name in Config.model_fields):
        for key in getattr(type(section), "model_fields", {}):
            assert (said := help_of(type(section), key)) and f"# {said}\n{key} = " in text


class Wordy(Section):
    """A section of somebody else's."""

    key: int = 0
    """Help that takes
    two lines."""


def test_help_is_one_line_however_it_is_written() -> None:
    """Else the second would be no comment in a run's TOML, and the run could not be read."""
    assert help_of(Wordy, "key") == "Help that takes two lines."


def test_nvidia_two_phases_are_exact() -> None:
    one, two = recipe.load("bert-large-phase1"), recipe.load("bert-large-phase2")
    for config in one, two:
        optim = config.optim
        assert (optim.name, optim.schedule, optim.power, optim.min_lr) == ("lamb", "polynomial", 0.5, 0.0)
        assert (optim.beta1, optim.beta2, optim.eps, optim.weight_decay, optim.clip) == (0.9, 0.999, 1e-6, 0.01, 1.0)
        assert (config.save.every, config.save.keep, config.model.preset) == (200, 3, "large")
    first, second = (
        (c.data.sequence, c.train.batch, c.optim.lr, c.train.steps, c.optim.warmup, c.train.batch * c.train.steps)
        for c in (one, two)
    )
    assert first == (128, 65536, 6e-3, 7038, 0.2843, 461_242_368)
    assert second == (512, 32768, 4e-3, 1563, 0.128, 51_216_384)
    assert two.train.init and not one.train.init


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("train.steps=1_000", 1000),
        ("train.init=2024", "2024"),
        ('train.init="2024"', "2024"),
        ("model.preset=1.5b", "1.5b"),
        ("model.norm_first=false", False),
        ("train.compile=on", "on"),
        ("data.train=a,b@0.3", ("a", "b@0.3")),
        ("data.train=[a, 7]", ("a", "7")),
        ('data.train=["x,y", "z"]', ("x,y", "z")),
        ("data.train=alone", ("alone",)),
        ("data.train=[]", ()),
        ("data.split=0.9,0.1,0", (0.9, 0.1, 0.0)),
        ("task=my.module:Task", "my.module:Task"),
    ],
)
def test_override(word: str, value: Any) -> None:
    node: Any = recipe.load("gpt-tiny", [word])
    for name in word.partition("=")[0].split("."):
        node = getattr(node, name)
    assert node == value and type(node) is type(value)


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("train.step=1", "train.step is not a key of the configuration; did you mean train.steps?"),
        ("lr=1", "did you mean optim.lr?"),
        ("optim.dropout=0", "did you mean model.dropout?"),
        ("zzz.qqq=1", "--help"),
        ("train.steps", "section.key=value"),
        ("model=3", "model is a section"),
        ("model.heads=0", "model.heads=0 will not do; it takes integer > 0"),
        ("train.steps=ten", 'train.steps="ten" will not do; it takes integer'),
        ("train.steps=1.5", "train.steps=1.5"),
        ("optim.beta1=1", "optim.beta1=1 will not do; it takes number >= 0 and < 1"),
        ("train.device=tpu", 'train.device="tpu" will not do; it takes auto | cpu | cuda'),
        ("data.split=0.9,0.1", "data.split=[0.9, 0.1] will not do; it takes a list of 3, each number >= 0"),
        ("data.split=1,-1,1", "data.split=[1, -1, 1]"),
    ],
)
def test_refused_override_is_one_line_that_names_the_way_out(word: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        recipe.load("gpt-tiny", [word])
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_several_errors_are_all_told() -> None:
    """Each with its value and what it takes."""
    with pytest.raises(InputError) as caught:
        recipe.validate({"train": {"steps": 0, "batch": -1}, "optim": {"lr": "fast"}, "data": {"split": [1, "x", 1]}})
    assert str(caught.value) == (
        "data.split=[1, 'x', 1] will not do; it takes a list of 3, each number >= 0 and <= 1000000000.0; "
        'optim.lr="fast" neither, it takes number > 0; train.steps=0 neither, it takes integer > 0; '
        "train.batch=-1 neither, it takes integer > 0"
    )
    with pytest.raises(InputError, match=r"model\.heads=0 neither.* \(and 3 more like it\)"):
        wrong = "layers", "hidden", "heads", "positions", "pad_vocab_to", "vocab"
        recipe.validate({"model": dict.fromkeys(wrong, 0) | {"vocab": -1, "norm_eps": 0, "init_std": 0}})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[train]\nstep = 1\n", "did you mean train.steps?"),
        ("train = 1\n", "train is a section"),
        ("[model]\nfamily = 7\n", "model.family=7 will not do; it takes text"),
        ("[data]\ntrain = 7\n", "data.train=7 will not do; it takes a list of text"),
        ('[data]\nsplit = "x"\n', 'data.split="x" will not do; it takes a list of 3, each number'),
        ("[trian]\n", "trian is not a key"),
        ("[train\n", "is not TOML"),
        ('extends = "nothing"\n', "nothing is neither a recipe nor a TOML file"),
        ('extends = "gpt2-355m"\n', "one step is allowed"),
    ],
)
def test_refused_file(content: str, says: str, tmp_path: Path) -> None:
    (path := tmp_path / "mine.toml").write_text(content)
    with pytest.raises(InputError) as caught:
        recipe.load(str(path))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_recipe_suggests_the_near_one() -> None:
    with pytest.raises(InputError, match="did you mean gpt2-124m"):
        recipe.load("gpt2-124")


@pytest.mark.parametrize("word", ["d/l", "d/l@0.7", "a,b", ""])
def test_one_text_in_a_file_is_the_list_that_it_is_as_a_word(word: str, tmp_path: Path) -> None:
    (path := tmp_path / "mine.toml").write_text(f'[data]\ntrain = "{word}"\n')
    assert recipe.load(str(path)) == recipe.from_words([f"data.train={word}"])


def test_extends_lays_a_recipe_upon_its_base_section_by_section(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("[train]\nsteps = 5\nbatch = 6\n[optim]\nlr = 0.5\n")
    (tmp_path / "mine.toml").write_text('extends = "base.toml"\n[train]\nbatch = 7\n')
    mapping = recipe.load_mapping(str(tmp_path / "mine.toml"), ["train.steps=9"])
    assert mapping == {"train": {"steps": 9, "batch": 7}, "optim": {"lr": 0.5}}


def test_help_names_every_key_and_needs_no_torch() -> None:
    code = "import sys; from phalanx import keys; print(keys.help_text()); assert 'torch' not in sys.modules"
    text = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    for name, section in Config.model_fields.items():
        for key in getattr(section.annotation, "model_fields", {}):
            assert f"  {name}.{key}=" in text
    assert 'train.device="auto"  (auto | cpu | cuda)' in text


@pytest.mark.parametrize(
    "word", ["train.steps=true", "model.dropout=false", "data.split=1e300,1e300,1", "train.batch=True"]
)
def test_truth_and_absurd_shares_are_no_numbers(word: str) -> None:
    with pytest.raises(InputError, match=word.partition("=")[0]):
        recipe.load("gpt-tiny", [word])
    assert recipe.load("gpt-tiny", ["data.split=949,50,1", "save.asynchronous=false"]).data.split == (949, 50, 1)
