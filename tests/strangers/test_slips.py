"""Slips of those who write for Phalanx from outside: each is told in one line that says what and where."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from phalanx.convert.huggingface import import_folder
from phalanx.errors import InputError
from phalanx.run.folder import RunFolder
from phalanx.run.records import FILE, read
from phalanx.spec.model import Spec
from phalanx.tasks.run import train
from phalanx.train import monitor
from tests.cli.running import phalanx
from tests.infer.runs import make_run
from tests.layouts.labelled import write
from tests.strangers.families import ToyConfig
from tests.strangers.names import NamedToy
from tests.strangers.slips import HERE
from tests.train.runs import Corpus

SHORT = "train.steps=2", "optim.warmup=0", "train.eval_every=2", "save.every=2"


@pytest.fixture(autouse=True)
def _known_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "peak_flops", lambda *_: 1e9)


def trained(corpus: Corpus, folder: Path, *words: str, family: str = "gpt") -> Path:
    """A run of two steps."""
    taken = [word.partition("=")[0] for word in words]
    usual = [word for word in corpus.words(family) if word.partition("=")[0] not in taken]
    assert train("gpt-tiny" if family == "gpt" else "bert-tiny", [*usual, *SHORT, *words], folder / "run", True) == 0
    return folder / "run"


@pytest.mark.parametrize(
    ("family", "word", "said"),
    [
        ("bert", "model.family=HERE:PairFirst", "a head for nsp before that over the vocabulary, which is to be the"),
        ("gpt", "model.family=HERE:Windows", "model.family=HERE:Windows: model.windows is a list, which could change"),
        ("gpt", "model.family=HERE:Spelt", "a validator of its [model] raised AttributeError: 'SpeltConfig' object"),
        ("gpt", "optim.name=HERE:Warm", "its key warmup is bool, which is float in every optimizer; give it another"),
        ("gpt", "optim.name=HERE:Twice", "build() gives torch transformer.embeddings.token.weight twice"),
        ("gpt", "optim.name=HERE:Momentum", "token.weight has momentum, and state() says that nothing is kept"),
        ("gpt", "optim.name=HERE:Counting", "token.weight has steps=1.0; checkpoints hold tensors alone"),
        ("gpt", "log.trackers=HERE:RequiredAbsent", "its construction raised ValueError: no key; PHALANX_TRACEBACK"),
        ("gpt", "log.trackers=HERE:RequiredLost", "log.trackers=HERE:RequiredLost: train() raised ValueError: no"),
        ("gpt", "log.trackers=HERE:RequiredUnflushed", "close() raised ValueError: not all was written; PHALANX"),
        ("gpt", "data.train=HERE:Endless", "HERE:Endless: len() is 9,223,372,036,854,775,807; a source has 1,152,9"),
        ("gpt", "data.train=HERE:Half", "data.train=HERE:Half: fingerprint() raised UnicodeEncodeError: 'utf-8'"),
        ("gpt", "task=HERE:Failing", "task=HERE:Failing: loss_counts() raised KeyError: 'documents'; PHALANX"),
        ("gpt", "task=HERE:Whole", "loss_counts() gave {'lm': 5}; tensors [] by the names of losses are wanted"),
        ("gpt", "task=HERE:Nothing", "task=HERE:Nothing: source() gave NoneType, which has no len() and sample()"),
        ("gpt", "task=HERE:Broken", "task=HERE:Broken: source() raised KeyError: 'lengths'; PHALANX_TRACEBACK=1"),
        ("gpt", "task=HERE:Bare", "task=HERE:Bare: losses is 'lm', not a tuple of names"),
    ],
)
def test_a_run_is_refused(corpus: Corpus, tmp_path: Path, family: str, word: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        trained(corpus, tmp_path, word.replace("HERE", HERE), family=family)
    assert said.replace("HERE", HERE) in str(caught.value) and "\n" not in str(caught.value)


def test_presets_that_are_no_table() -> None:
    with pytest.raises(InputError, match="Listed: PRESETS is a list, not \\[model\\] sections by name"):
        phalanx("plan", "gpt-tiny", f"model.family={HERE}:Listed", "model.preset=a", "--gpus", "2")


def test_a_tracker_that_fails_at_its_end(corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(corpus, tmp_path, f"log.trackers={HERE}:Unflushed")
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "Unflushed" in line]
    assert said.startswith(f"{HERE}:Unflushed failed and is told nothing more: ValueError: not all was written")
    assert [record["step"] for record in read(run / FILE)] == [0, 1, 2, 2]


@pytest.mark.filterwarnings("error")
def test_tokens_in_another_order_of_bytes(corpus: Corpus, tmp_path: Path) -> None:
    """And read-only ones, without a warning."""
    sources = "tests.strangers.sources:Sums", f"{HERE}:Other"
    runs = [trained(corpus, tmp_path / str(n), f"data.train={name}") for n, name in enumerate(sources)]
    usual, other = ([record.get("loss") for record in read(run / FILE)] for run in runs)
    assert usual == other and None not in usual[1:]


@pytest.fixture(scope="module")
def base(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT to be fine-tuned."""
    folder = tmp_path_factory.mktemp("base")
    make_run(folder / "run", corpus.config("bert"), str(corpus.file("bert")))
    return RunFolder.open(folder / "run").path


def tuned(corpus: Corpus, base: Path, out: Path, task: str) -> str:
    """What a run of fine-tuning of two steps tells."""
    reviews = write(corpus.folder, "stars")
    files = ["--data", reviews, "--valid", reviews, "--text", "words"]
    words = ["train.batch=8", "train.compile=off", "train.device=cpu", "precision.dtype=fp32", *SHORT]
    return phalanx("tune", base, "--task", f"{HERE}:{task}", *files, *words, "--out", out)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("Text", "task=HERE:Text: answer() gave related='1', not a whole number"),
        ("Empty", "task=HERE:Empty: its head gives no numbers; fitted() sets model.classes, or width() says how many"),
        ("Unbound", "model.head=HERE:UnboundHead: width() raised TypeError: UnboundHead.width() missing 1 required"),
        ("Three", "model.head=HERE:ThreeHead: loss() gave no tuple of one or two sums"),
    ],
)
def test_fine_tuning_is_refused(corpus: Corpus, base: Path, tmp_path: Path, task: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        tuned(corpus, base, tmp_path / "run", task)
    assert said.replace("HERE", HERE) in str(caught.value) and "\n" not in str(caught.value)


def test_scores_may_be_numbers_of_numpys(corpus: Corpus, base: Path, tmp_path: Path) -> None:
    assert "run: near 0." in tuned(corpus, base, tmp_path / "run", "Narrow")


def test_a_folder_of_a_family_whose_description_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"model_type": "toy", "architectures": ["ToyForCausalLM"], "vocab_size": 9, "max_position": 8, "width": 16}
    facts |= {"depth": 1, "heads": 4, "kv_heads": 2, "mlp_width": 8, "epsilon": 1e-5, "dropout": 0.0}
    (tmp_path / "config.json").write_text(json.dumps(facts | {"activation": "silu"}))
    save_file({"words.weight": torch.zeros(9, 16)}, tmp_path / "model.safetensors")
    right = ToyConfig.spec

    def refusal(spec: Any) -> str:
        monkeypatch.setattr(ToyConfig, "spec", spec)
        with pytest.raises(InputError) as caught:
            import_folder(tmp_path, tmp_path / "run", outside=f"{NamedToy.__module__}:NamedToy")
        return str(caught.value)

    def narrow(model: ToyConfig) -> Spec:
        spec = right(model)
        return replace(spec, blocks=(replace(spec.blocks[0], attention=None),))  # type: ignore[arg-type]

    assert "its spec: transformer.blocks.0.attention is None, not Attention" in refusal(narrow)
    assert "spec() is to return a phalanx.spec.model.Spec, not NoneType" in refusal(lambda model: None)
    assert "spec() raised ZeroDivisionError" in refusal(lambda model: 1 // 0)
    assert "lacks the tensor places" in refusal(right)
