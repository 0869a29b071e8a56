"""A task from outside, with a head from outside, goes where those of the package go.

Its curve on layouts is among those of tests/layouts/test_labelled.py.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from phalanx import recipe
from phalanx.errors import InputError
from phalanx.heads.head import head_class
from phalanx.infer import backends, load_encoder
from phalanx.infer.traced import TracedEncoder, untraceable
from phalanx.models.family import configured, spec_of
from phalanx.plan.rank import RankShard
from phalanx.plan.trace import trace
from phalanx.plan.trace_report import planned_messages
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from phalanx.serve.worker import compute
from phalanx.train.resolve import Target, resolve
from tests.batches import batch_of
from tests.cli.running import phalanx
from tests.infer.runs import make_run
from tests.layouts.labelled import write
from tests.strangers.tasks import OrdinalHead, Rating, Stars
from tests.train.runs import Corpus, curve

TASK, HEAD = "tests.strangers.tasks:Stars", "tests.strangers.tasks:OrdinalHead"
WORDS = ["train.batch=8", "train.compile=off", "train.device=cpu", "precision.dtype=fp32", "optim.lr=5e-3"]


@pytest.fixture(scope="module")
def reviews(corpus: Corpus) -> Path:
    """Texts of the corpus's own words, with stars."""
    return write(corpus.folder, "stars")


@pytest.fixture(scope="module")
def run(corpus: Corpus, reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the task, fine-tuned from a model with arbitrary weights."""
    folder = tmp_path_factory.mktemp("stars")
    make_run(folder / "base", corpus.config("bert", "model.init_std=0.2"), str(corpus.file("bert")))
    files = ["--data", reviews, "--valid", reviews, "--text", "words"]
    words = [*WORDS, "train.steps=4", "train.eval_every=2", "save.every=2"]
    told = phalanx("tune", folder / "base", "--task", TASK, *files, *words, "--out", folder / "run")
    assert "at random: answer.classifier.bias, answer.classifier.weight" in told and "run: near " in told
    return folder / "run"


def test_it_is_planned_and_traced_as_what_it_is(run: Path) -> None:
    config = resolve(recipe.load(str(run / "config.toml"), ["layout.tp=2"]), Target(2))
    held = RankShard(config).held
    assert held == [*spec_of(config.model).parameters()]
    assert [p.shape for p in held if p.name.startswith("answer.classifier")] == [(4, 32), (4,)]
    assert trace(config, 2, device="cpu").messages == planned_messages(config, 0, "cpu")


def test_it_is_planned_without_its_files() -> None:
    words = ["model.family=bert", f"task={TASK}", "model.layers=1", "data.sequence=128"]
    with pytest.raises(InputError, match=f"task={TASK} has as many classes, or candidates, as its data say"):
        resolve(recipe.load("finetune", words), Target(1))
    config = resolve(recipe.load("finetune", [*words, "model.classes=4"]), Target(1))
    assert spec_of(config.model).tuned == HEAD


def test_it_is_evaluated(run: Path, reviews: Path, tmp_path: Path) -> None:
    told = phalanx("eval", run, "--predictions", tmp_path / "said.jsonl")
    assert "near" in told and "26 examples" in told
    said = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert said[0]["label"] == "1" and 1 <= said[0]["said"]["stars"] <= 5
    last = max((r for r in curve(run) if r["kind"] == "valid"), key=lambda r: r["near"])
    assert sum(abs(one["said"]["stars"] - int(one["label"])) < 2 for one in said) / 26 == pytest.approx(last["near"])


def test_it_is_asked_by_the_verb_of_its_head(run: Path) -> None:
    model = load_encoder(run, "torch")
    (said,) = model.predict(["a text"])
    assert isinstance(said, Rating)
    assert phalanx("classify", run, "a text") == f"stars  {said.stars}\nmore  {said.more}\n"
    assert model.can == ["classify"]
    assert compute(model, "classify", [{"text": "a text", "pair": ""}]) == [said._asdict()]
    with pytest.raises(InputError, match=f"cannot give numbers: it was tuned for task={TASK}"):
        model.values(["a text"])
    with pytest.raises(InputError, match=f"cannot answer questions: it was tuned for task={TASK}"):
        model.answer("Who?", "He.")
    if not backends.unavailable("native", "encoder", model.bundle.spec, "fp32"):
        (again,) = load_encoder(run, "native").predict(["a text"])
        assert again.more == pytest.approx(said.more, abs=1e-4)


@torch.no_grad()
def test_it_has_a_graph(run: Path) -> None:
    bundle = load_encoder(run, "torch").bundle
    tokens = torch.randint(100, (2, 9))
    (logits,) = TracedEncoder(bundle)(tokens, torch.ones_like(tokens), torch.zeros_like(tokens))
    right = bundle.model(batch_of(tokens, 32, segment=torch.zeros_like(tokens)))
    assert not untraceable(bundle.spec) and torch.allclose(logits, right, atol=1e-5)


def test_it_goes_to_hugging_face_and_back(run: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    phalanx("export", run, there)
    facts = json.loads((there / "config.json").read_text())
    assert facts["architectures"] == ["BertForSequenceClassification"] and len(facts["id2label"]) == 4
    phalanx("import", f"hf:{there}", "--out", back, "--head", HEAD)
    config = RunFolder.open(back).config()
    assert (config.task, config.model.tuned(HEAD)) == (TASK, config.model) and spec_of(config.model).tuned == HEAD
    one, other = (Checkpointer(RunFolder.open(each)).weights(best=True) for each in (run, back))
    for name, tensor in one.items():
        rows = config.model.vocab if "embeddings.token" in name else len(tensor)  # the rest only fills up
        assert torch.equal(tensor[:rows], other[name][:rows]), name
    with pytest.raises(InputError, match=r"config\.json: architectures=.* has not the head"):
        facts["architectures"] = ["BertForPreTraining"]
        (there / "config.json").write_text(json.dumps(facts))
        phalanx("import", f"hf:{there}", "--out", tmp_path / "none", "--head", HEAD)


class Nameless(OrdinalHead):
    """A head that Hugging Face has not."""

    hugging_face = ""


class Vague(OrdinalHead):
    """A head without a loss."""

    loss: Any = property()
    verb = "rate"


class Curious(OrdinalHead):
    """A head that asks for what no batch has."""

    asks: Any = "stars"


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("clases", "unknown model.head 'clases'; did you mean 'classes'? Known: classes, value, span, choice, tokens"),
        ("tests.strangers.tasks:Stars", "model.head 'tests.strangers.tasks:Stars' is none: it has no width"),
        ("tests.strangers.test_tasks:Vague", "model.head=tests.strangers.test_tasks:Vague: the verb 'rate' is not"),
        (
            "tests.strangers.test_tasks:Curious",
            "model.head=tests.strangers.test_tasks:Curious: asks='stars' is",
        ),
        ("phalanx.heads.head:TaskHead", "model.head=phalanx.heads.head:TaskHead has no task"),
    ],
)
def test_what_is_no_head_is_refused_in_one_line(head: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        spec_of(configured(family="bert", head=head, classes=4, vocab=9))
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


def test_a_head_without_a_name_does_not_go_there(run: Path, tmp_path: Path) -> None:
    nameless = "tests.strangers.test_tasks:Nameless"
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "config.toml"
    file.write_text(file.read_text().replace(HEAD, nameless))
    with pytest.raises(InputError, match=f"the head {nameless} .* has no name at Hugging Face"):
        phalanx("export", tmp_path / "run", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_decoder_has_not_the_head() -> None:
    with pytest.raises(InputError, match=f"the head {HEAD} is none that model.family=gpt2 has; use model.family=bert"):
        Stars.fitted(recipe.load("gpt-tiny", [f"task={TASK}"]))
    assert head_class(HEAD) is OrdinalHead
