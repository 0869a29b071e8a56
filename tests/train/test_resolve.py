"""A configuration with nothing left to decide."""

import shutil
from pathlib import Path

import pytest
import torch

from phalanx import recipe
from phalanx.config import Config
from phalanx.errors import InputError
from phalanx.precision import gemm
from phalanx.tasks.clm import CausalLM
from phalanx.train.machine import this_machine
from phalanx.train.resolve import Target, resolve
from tests.train.runs import Corpus

CPU = torch.device("cpu")


def test_what_was_automatic_is_definite(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ["precision.dtype=auto", "train.compile=auto", "layout.micro_batch=0"]
    config = corpus.config("gpt", *words)
    assert (config.train.device, config.train.compile) == ("cpu", "off")
    assert config.precision.dtype == gemm.resolve("auto", CPU)
    assert config.layout.micro_batch == config.train.batch == 8
    assert (config.model.vocab, config.model.ffn) == (corpus.tokenizer("gpt").vocab, 128)
    assert corpus.config("gpt", "layout.micro_batch=99").layout.micro_batch == 8
    assert resolve(config, this_machine(config.train, 1, corpus.tokenizer("gpt").vocab)) == config, "once is enough"


def test_a_preset_lies_under_explicit_keys() -> None:
    config = recipe.from_words(["model.preset=355m", "model.heads=8"])
    assert (config.model.layers, config.model.hidden, config.model.heads) == (24, 1024, 8)


def test_paths_are_absolute_and_names_are_not_paths(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sets = ["data.train=a@0.7,deep/b,/root/c@2", "data.valid=v", "data.test=t"]
    config = corpus.config("gpt", *sets, "train.init=runs/one", "data.tokenizer=t.json")
    assert config.data.train == (f"{tmp_path}/a@0.7", f"{tmp_path}/deep/b", "/root/c@2")
    assert config.data.valid == (f"{tmp_path}/v",) and config.data.test == (f"{tmp_path}/t",)
    assert (config.train.init, config.data.tokenizer) == (f"{tmp_path}/runs/one", f"{tmp_path}/t.json")
    plain = corpus.config("gpt", "data.tokenizer=gpt2")
    assert (plain.data.tokenizer, plain.train.init, plain.data.valid) == ("gpt2", "", ())


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["model.vocab=7"], "model.vocab=7"),
        (["data.sequence=64"], "model.positions=32"),
        (["model.heads=3"], "model.heads=3"),
        (["optim.warmup=6"], "optim.warmup=6"),
        (["train.device=cuda"], "train.device=cuda"),
        (["data.restart_positions=true"], "set data.stop_at_documents=true"),
        (["task=mlm", "model.family=roberta"], "roberta has no head for data.pairs=nsp; use data.pairs=none"),
        (["train.z_loss=1e-4", "task=classes", "model.classes=2", "model.family=bert"], "train.z_loss"),
    ],
)
def test_what_cannot_run_is_named(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch, words: list[str], named: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=named):
        corpus.config("gpt", *words)


@pytest.mark.parametrize("family", ["gpt", "bert", "roberta", "llama"])
def test_what_is_planned_is_what_is_trained(corpus: Corpus, family: str) -> None:
    """Without the data and the machine, which say no more than the words do here."""
    words = ["model.vocab=320", "layout.tp=2", "layout.pp=2", "layout.micro_batch=0", "train.batch=16"]
    asked = recipe.from_words([*corpus.words(family), *words])
    assert resolve(asked, Target(8)) == corpus.config(family, *words, processes=8)


def test_a_schedule_that_takes_no_compiled_blocks_has_none(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the planner proposes without a word on it has to run."""
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    words = ["train.steps=1000000", "train.batch=4096", "layout.pp=2", "layout.micro_batch=4", "model.layers=4"]
    for schedule, compiled in ("1f1b", "on"), ("zbv", "off"):
        config = corpus.config("gpt", *words, f"layout.schedule={schedule}", "train.compile=auto", processes=2)
        assert config.train.compile == compiled
    with pytest.raises(InputError, match=r"zbv takes no compiled blocks; use train\.compile=off"):
        corpus.config("gpt", *words, "layout.schedule=zbv", "train.compile=on", processes=2)


def _compile(corpus: Corpus, *words: str) -> str:
    return corpus.config("gpt", *words).train.compile


def test_long_runs_are_compiled_where_there_is_a_compiler(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    long = ["train.steps=1000000", "train.batch=4096", "train.compile=auto"]
    ramp = [*long, "train.rampup=8,8,4096"]  # small at first only
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert _compile(corpus, "train.compile=auto") == "off"
    assert _compile(corpus, *long) == _compile(corpus, *ramp) == "on"
    assert _compile(corpus, "train.compile=on") == "on"
    assert _compile(corpus, *long[:2], "train.compile=off") == "off"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert _compile(corpus, *long) == "off"
    with pytest.raises(InputError, match=r"train\.compile=on needs a C\+\+ compiler"):
        _compile(corpus, "train.compile=on")


def test_the_two_phases_of_bert_large_are_nvidias() -> None:
    """Number by number: sequences, batches, rates, steps, warm-ups, LAMB's constants, checkpoints."""
    one, two = (recipe.load(f"bert-large-phase{phase}") for phase in (1, 2))
    _check_phase(one, sequence=128, batch=65_536, rate=6e-3, steps=7038, warmup=0.2843)
    _check_phase(two, sequence=512, batch=32_768, rate=4e-3, steps=1563, warmup=0.128)
    assert not one.train.init and two.train.init == "runs/bert-large-phase1"
    assert one.train.batch * one.train.steps == 461_242_368 and two.train.batch * two.train.steps == 51_216_384


def test_roberta_base_is_the_papers() -> None:
    """Table 9 of arXiv 1907.11692, number by number, but for the dropout of attention; full sequences, no pairs."""
    config = recipe.load("roberta-base")
    optim, train, data, model = config.optim, config.train, config.data, config.model
    assert (model.layers, model.hidden, model.ffn, model.heads, model.dropout) == (12, 768, 3072, 12, 0.1)
    assert (optim.warmup, optim.lr, train.batch, optim.weight_decay) == (24_000, 6e-4, 8192, 0.01)
    assert (train.steps, optim.schedule, optim.min_lr) == (500_000, "linear", 0)
    assert (optim.name, optim.eps, optim.beta1, optim.beta2, optim.clip) == ("adamw", 1e-6, 0.9, 0.98, 0)
    assert (config.task, data.sequence, data.pairs) == ("mlm", 512, "none")
    assert (data.mask_fraction, data.short_fraction) == (0.15, 0)


def _check_phase(config: Config, sequence: int, batch: int, rate: float, steps: int, warmup: float) -> None:
    optim, train, data, model = config.optim, config.train, config.data, config.model
    assert (data.sequence, train.batch, optim.lr, train.steps, optim.warmup) == (sequence, batch, rate, steps, warmup)
    assert (optim.name, optim.beta1, optim.beta2, optim.eps) == ("lamb", 0.9, 0.999, 1e-6)
    assert (optim.weight_decay, optim.clip, optim.schedule, optim.power) == (0.01, 1.0, "polynomial", 0.5)
    assert (optim.min_lr, train.rampup, config.save.every, config.save.keep) == (0, (0, 0, 0), 200, 3)
    assert (config.task, data.pairs, data.mask_fraction, data.short_fraction) == ("mlm", "nsp", 0.15, 0.1)
    assert (model.layers, model.hidden, model.heads, model.norm_first, model.gelu) == (24, 1024, 16, False, "erf")
    assert (model.positions, model.segments, model.dropout, model.attention_dropout) == (512, 2, 0.1, 0.1)
    assert model.pad_vocab_to == 8 and train.batch % config.layout.micro_batch == 0


@pytest.mark.parametrize(
    ("words", "vocab"),
    [
        (["model.family=llama", "model.preset=3-8b"], 128_256),
        (["model.family=llama", "model.preset=2-70b"], 32_000),
        (["model.family=llama", "model.preset=qwen2-0.5b", "data.tokenizer=gpt2"], 50_257),
        (["model.preset=124m"], 50_257),
        (["model.family=bert", "task=mlm"], 30_522),
    ],
)
def test_a_preset_is_planned_with_its_own_vocabulary(words: list[str], vocab: int) -> None:
    """Without data; a tokenizer that is named counts more."""
    asked = recipe.from_words([*words, "data.sequence=128", "train.batch=8"])
    assert resolve(asked, Target()).model.vocab == vocab


class Copy(CausalLM):
    """A task of pretraining from outside: it has the losses of the one that it is made of."""


def test_a_task_of_pretraining_from_outside_is_planned_as_it_is_trained() -> None:
    asked = recipe.from_words([f"task={__name__}:Copy", "model.layers=1", "data.sequence=64", "train.batch=4"])
    planned, trained = (resolve(asked, Target(files=files)) for files in (False, True))
    assert planned == trained
    with pytest.raises(InputError, match=r"is not for model\.family=bert; use task=mlm"):
        resolve(recipe.from_words([f"task={__name__}:Copy", "model.family=bert"]), Target())
