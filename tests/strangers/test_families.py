"""A family from outside, with keys of its own, goes where those of the package go."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from phalanx import recipe
from phalanx.cli.app import app
from phalanx.errors import InputError
from phalanx.infer import load
from phalanx.infer.decoder import Decoder
from phalanx.infer.decoder_model import DecoderModel
from phalanx.infer.export import export_run
from phalanx.infer.kernels import compiled
from phalanx.infer.sample import Options
from phalanx.models.build import make
from phalanx.models.family import configured, spec_of
from phalanx.plan.rank import RankShard
from phalanx.run.folder import RunFolder
from phalanx.train.resolve import Target, resolve
from tests.layouts.conftest import Alone
from tests.layouts.curves import curve as train_and_tell
from tests.layouts.curves import farthest
from tests.layouts.pool import Pool
from tests.strangers.families import Toy, ToyConfig
from tests.strangers.finished import finished
from tests.train.runs import Corpus

NAME = "tests.strangers.families:Toy"
TOY = [f"model.family={NAME}", "train.steps=6", "train.eval_every=3"]
TOLERANCE = 1e-4  # of 6 steps in fp32


def test_its_keys_are_read_overridden_written_and_read_again(tmp_path: Path) -> None:
    (path := tmp_path / "mine.toml").write_text(f'[model]\nkv_heads = 4\nfamily = "{NAME}"\n')
    config = recipe.load(str(path), ["model.shape=plain"])
    assert config.model == ToyConfig(kv_heads=4, shape="plain")
    assert config.model.ffn == 3 * config.model.hidden, "its own default, made definite"

    (again := tmp_path / "again.toml").write_text(text := recipe.dump(config))
    assert recipe.load(str(again)) == config
    assert "# Heads of keys and values; must divide heads.\nkv_heads = 4\n" in text

    config = recipe.load("gpt-tiny", ["model.preset=mini", f"model.family={NAME}", "model.heads=2"])
    assert isinstance(config.model, ToyConfig) and (config.model.hidden, config.model.heads) == (192, 2)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("model.kv_head=1", "model.kv_head is not a key of the configuration; did you mean model.kv_heads?"),
        ("model.kv_heads=0", "model.kv_heads=0 will not do; it takes integer > 0"),
        ("model.shape=round", 'model.shape="round" will not do; it takes plain | gated'),
        ("model.segments=2", f"model.segments is a key of model.family=bert, and {NAME} has none of that name"),
        ("model.preset=huge", "model.preset=huge is unknown; use one of mini"),
    ],
)
def test_what_it_has_not_is_refused_in_one_line(word: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        recipe.load("gpt-tiny", [f"model.family={NAME}", word])
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_preset_with_a_key_that_the_family_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the family's mistake, not the user's."""
    monkeypatch.setattr(Toy, "PRESETS", {"odd": {"hops": 1}})
    with pytest.raises(InputError, match=f"model.preset=odd of {NAME} has hops, which is no key of its"):
        recipe.load("gpt-tiny", [f"model.family={NAME}", "model.preset=odd"])


def test_keys_that_every_family_had_once_are_nothing_to_it(tmp_path: Path) -> None:
    former = 'segments = 0\nnorm_first = true\ngelu = "tanh"\nhead = ""\nclasses = 0\n'
    (path := tmp_path / "former.toml").write_text(f'[model]\nfamily = "{NAME}"\n{former}')
    assert recipe.load(str(path)).model == ToyConfig()
    path.write_text(path.read_text().replace("true", "false"))
    with pytest.raises(InputError, match=f"^model.norm_first is a key of model.family=gpt2, and {NAME} has none"):
        recipe.load(str(path))


def test_help_lists_its_keys() -> None:
    told = CliRunner().invoke(app, ["train", "--help", f"model.family={NAME}"], catch_exceptions=False).output
    assert (
        "  model.kv_heads=2  (integer > 0 and <= 16777216)\n      Heads of keys and values; must divide heads.\n"
        in told
    )
    assert '  model.shape="gated"  (plain | gated)\n' in told and "model.gelu" not in told
    everything = CliRunner().invoke(app, ["train", "--all", f"model.family={NAME}"], catch_exceptions=False).output
    assert "  model.kv_heads=2" in everything and "  optim.beta2=" in everything and "model.segments" not in everything


def test_its_modules_have_the_parameters_of_its_description() -> None:
    model = configured(family=NAME, layers=1, hidden=16, heads=4, positions=8, vocab=9, pad_vocab_to=1)
    names = [name for name, _ in make(model).named_parameters()]
    assert names == [parameter.name for parameter in spec_of(model).parameters()]
    assert "head.weight" in names and "transformer.blocks.0.norm1.bias" not in names


@pytest.mark.parametrize("words", [["layout.tp=2"], ["layout.pp=2", "layout.micro_batch=2"]], ids=["tp2", "pp2"])
def test_one_curve(pool: Pool, alone: Alone, corpus: Corpus, words: list[str]) -> None:
    found = pool.run(2, train_and_tell, corpus.folder, "gpt", *TOY, *words)
    assert farthest(found[0], alone("gpt", *TOY)) < TOLERANCE
    assert farthest(found[1], found[0]) == 0, "every rank tells the same"


@pytest.fixture(scope="module")
def run(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    return finished(corpus, tmp_path_factory.mktemp("toy"), *TOY)


def test_it_is_planned_as_what_it_is(run: Path) -> None:
    config = resolve(RunFolder.open(run).config(), Target())
    assert RankShard(config).held == [*spec_of(config.model).parameters()]


def test_it_has_no_graph(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"decoders of GPT-2's kind alone, and of this one head is not tied"):
        export_run(run, tmp_path / "model.onnx")


def test_it_writes_by_torch_since_the_kernels_do_not_know_it(run: Path) -> None:
    told: list[str] = []
    model = load(run, log=told.append)
    assert isinstance(model, DecoderModel) and isinstance(model.engine.decoder, Decoder)
    assert "all" not in model.engine.decoder.model.transformer.blocks  # which the kernels put there
    assert "".join(model.generate("a", Options(max_tokens=3, temperature=0)))
    if torch.cuda.is_available():
        return
    assert ["head is not tied to the embedding" in line for line in told] == [True]
    if not compiled.unavailable():
        with pytest.raises(InputError, match=r"backend=native: .* GPT-2's and BERT's .*head is not tied"):
            load(run, "native")
