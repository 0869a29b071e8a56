"""All that comes from outside goes through every verb, on three runs: a decoder with a family, an optimizer, data, a
tracker and a backend from outside; a BERT with a task, a head and a backend; an encoder of a family from outside.

Each is trained, checked on a layout, resumed, planned, traced, judged, asked, served, exported and imported by the
command line's own verbs. What each of the strangers does alone is tested in the files beside this one.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from typer.testing import CliRunner

from phalanx.cli.app import app
from phalanx.models.family import spec_of
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from phalanx.serve.messages import WorkerSpec
from phalanx.train import monitor
from tests.cli.running import phalanx
from tests.faults.ranks import free_port
from tests.infer.runs import make_run
from tests.layouts.labelled import write
from tests.layouts.pool import Pool
from tests.serve.in_process import serving
from tests.strangers.optimizers import Normed
from tests.train.runs import Corpus, curve

HERE = "tests.strangers"
COMMON = [f"optim.name={HERE}.optimizers:Normed", "optim.momentum=0.8", f"log.trackers={HERE}.trackers:Diary",
          "train.steps=4", "train.eval_every=2", "save.every=2"]  # fmt: skip
NUMBER = r"\d+(?:\.\d+)?"
BERT_ALONE = {"model.segments", "model.norm_first", "model.gelu"}  # keys that other encoders have not
SPREAD = ["layout.tp=2", "layout.pp=2", "layout.dp=2", "layout.micro_batch=2"]


class Journey(NamedTuple):
    """How a run is made, and which value of how many examples its evaluations tell; by which verb and backend it is
    asked; what a server is asked instead, whose reply `printed` shows as the verb does; how its folder comes in.
    """

    make: Callable[[Corpus, Path], Path]
    judged: str
    limit: int
    asked: tuple[str, ...]
    backend: str
    path: str
    body: dict[str, Any]
    printed: Callable[[Any], str]
    imported: tuple[str, ...]


def decoder(corpus: Corpus, folder: Path) -> Path:
    """A run of a family, an optimizer, data and a tracker from outside."""
    model = f"model.family={HERE}.names:NamedToy", "model.kv_heads=1", "model.heads=4", "model.dropout=0.1"
    words = [*corpus.words("gpt"), *COMMON, *model, f"data.train={HERE}.sources:Sums", "optim.lr=0.02"]
    phalanx("train", "gpt-tiny", *words, "--out", folder / "run")
    return folder / "run"


def encoder(corpus: Corpus, folder: Path) -> Path:
    """A run of a task, a head, an optimizer and a tracker from outside."""
    base = corpus.config("bert", "model.init_std=0.2", "model.heads=4", "model.dropout=0.1")
    make_run(folder / "base", base, str(corpus.file("bert")))
    shutil.copy(corpus.folder / "text.txt", folder)  # from whose words the reviews are made
    reviews = write(folder, "stars")
    words = [*COMMON, "train.batch=8", "train.compile=off", "train.device=cpu", "precision.dtype=fp32", "optim.lr=5e-3"]
    files = ["--data", reviews, "--valid", reviews, "--text", "words"]
    phalanx("tune", folder / "base", "--task", f"{HERE}.tasks:Stars", *files, *words, "--out", folder / "run")
    return folder / "run"


def filler(corpus: Corpus, folder: Path) -> Path:
    """A run of a family of encoders, an optimizer and a tracker from outside."""
    known = [word for word in corpus.words("bert") if word.partition("=")[0] not in BERT_ALONE]
    model = f"model.family={HERE}.encoders:Around", "model.heads=4", "model.dropout=0.1", "data.pairs=none"
    phalanx("train", "gpt-tiny", *known, *COMMON, *model, "--out", folder / "run")
    return folder / "run"


def printed_mask(told: Any) -> str:
    """A mask's words as `phalanx fill` prints them."""
    (blank,) = told
    words = ", ".join(f"{word} {chance:.1%}" for word, chance in blank["words"])
    return f"[MASK] at token {blank['position']}: {words}"


JOURNEYS = {
    "decoder": Journey(
        make=decoder,
        judged="loss",
        limit=6,
        asked=("generate", "1 and 2 are", "--greedy", "--tokens", "8"),
        backend=f"{HERE}.backends:Uncached",
        path="/v1/completions",
        body={"prompt": "1 and 2 are", "max_tokens": 8, "temperature": 0},
        printed=lambda told: "1 and 2 are" + told["choices"][0]["text"],
        imported=("--family", f"{HERE}.names:NamedToy"),
    ),
    "encoder": Journey(
        make=encoder,
        judged="near",
        limit=26,
        asked=("classify", "a text"),
        backend=f"{HERE}.backends:Plain",
        path="/classify",
        body={"text": "a text"},
        printed=lambda told: f"stars  {told['stars']}\nmore  {told['more']}",
        imported=("--head", f"{HERE}.tasks:OrdinalHead"),
    ),
    "filler": Journey(
        make=filler,
        judged="loss",
        limit=6,
        asked=("fill", "a [MASK]"),
        backend="torch",
        path="/fill",
        body={"text": "a [MASK]"},
        printed=printed_mask,
        imported=(),
    ),
}


@pytest.fixture(scope="module", params=JOURNEYS)
def journey(request: pytest.FixtureRequest) -> Journey:
    return JOURNEYS[request.param]


@pytest.fixture(scope="module")
def run(journey: Journey, corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitor, "peak_flops", lambda *_: 1e9)
        yield journey.make(corpus, tmp_path_factory.mktemp("journey"))


def ask(journey: Journey, run: Path, backend: str = "") -> str:
    """What the verb says to the question."""
    verb, *question = journey.asked
    return phalanx(verb, run, *question, "--backend", backend or journey.backend)


def numbers(text: str) -> list[float]:
    """The numbers in a text."""
    return [float(number) for number in re.findall(NUMBER, text)]


def on_ranks(port: int, *words: str) -> tuple[int, str]:
    """`phalanx WORDS` in a process of several, as torchrun would have started them: its exit code, and what it says."""
    places = {"RANK": dist.get_rank(), "LOCAL_RANK": dist.get_rank(), "WORLD_SIZE": dist.get_world_size(),
              "LOCAL_WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
    dist.barrier()  # a rank that left while others still connect would break their connections
    dist.destroy_process_group()  # the pool's: the verb makes its own
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitor, "peak_flops", lambda *_: 1e9)
        for name, value in places.items():
            patch.setenv(name, str(value))
        told = CliRunner().invoke(app, [*words], catch_exceptions=False)
    return told.exit_code, told.stdout


def laid_out(pool: Pool, processes: int, *words: object) -> str:
    """What `phalanx WORDS` prints on so many processes."""
    found = pool.run(processes, on_ranks, free_port(), *map(str, words))
    assert [code for code, _ in found] == [0] * processes, found[0][1]
    return found[0][1]


def test_train_tells_the_tracker(run: Path) -> None:
    config = RunFolder.open(run).config(trained=True)
    assert isinstance(config.optim, Normed) and config.optim.momentum == 0.8
    lines = [f"{config.task} from step 0", f"{spec_of(config.model).elements} parameters"]
    for each in curve(run):
        train = each["kind"] == "train"
        lines.append(f"{'step' if train else 'held-out loss after step'} {each['step']}: "
                     f"{'loss ' if train else ''}{each['loss']:.2f}")  # fmt: skip
    assert (run / "diary.txt").read_text().splitlines() == [*lines, "the end"] and len(lines) == 8


def test_check(pool: Pool, run: Path) -> None:
    lines = laid_out(pool, 8, "check", run, *SPREAD, "--steps", 4).splitlines()
    assert "tp=2 pp=2 dp=2" in lines[1] and lines[-1].startswith("the curves agree")
    assert [line.split()[0] for line in lines if line.split()[0].isdecimal()] == ["1", "2", "3", "4"]


def halved(run: Path, folder: Path) -> Path:
    """The run as it was after two of its steps."""
    shutil.copytree(run, folder)
    shutil.rmtree(max((folder / "checkpoints").glob("step-*")))
    return folder


def test_resume(run: Path, tmp_path: Path) -> None:
    again = halved(run, tmp_path / "again")
    phalanx("train", again)
    assert curve(again) == curve(run)
    told = [line for line in (again / "diary.txt").read_text().splitlines() if " from " in line]
    task = RunFolder.open(run).config().task
    assert told == [f"{task} from step 0", f"{task} from step 2"]


def test_resume_on_a_layout(pool: Pool, run: Path, tmp_path: Path) -> None:
    again = halved(run, tmp_path / "again")
    laid_out(pool, 8, "train", again, *SPREAD)
    assert len(curve(again)) == len(curve(run)) == 6
    for one, other in zip(curve(again), curve(run), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)


def test_plan(run: Path) -> None:
    told = json.loads(phalanx("plan", run, *SPREAD, "layout.shard=none", "--gpus", 8, "--json"))
    best, config = told["best"][0], RunFolder.open(run).config()
    assert best["name"].startswith("tp2 pp2 dp2") and best["command"].startswith(f"phalanx train {run} ")
    assert best["memory"]["optimizer"] == best["memory"]["parameters"] < 4 * spec_of(config.model).elements


def test_trace(run: Path) -> None:
    told = json.loads(phalanx("trace", run, *SPREAD, "--rank", 6, "--json"))
    assert told["messages_as_planned"] and told["coordinates"] == {"pp": 1, "dp": 1, "cp": 0, "tp": 0}
    assert told["planned_flops"] == pytest.approx(told["flops"], rel=0.01)
    for kind in ("parameters", "optimizer"):
        assert told["planned_peak"][kind] == told["peak"][kind] == 4 * told["parameters"]


def test_eval(pool: Pool, journey: Journey, run: Path) -> None:
    words = "eval", run, "--limit", journey.limit
    best = min if journey.judged == "loss" else max
    trained = best(each[journey.judged] for each in curve(run) if each["kind"] == "valid")
    for told in phalanx(*words), laid_out(pool, 8, *words, *SPREAD[:3]):
        values = dict(line.split()[:2] for line in told.splitlines() if len(line.split()) > 1)
        assert float(values[journey.judged]) == pytest.approx(trained, abs=2e-4)


def test_asked(journey: Journey, run: Path) -> None:
    theirs, ours = ask(journey, run), ask(journey, run, "torch")
    assert re.sub(NUMBER, "", theirs) == re.sub(NUMBER, "", ours) != ""
    assert numbers(theirs) == pytest.approx(numbers(ours), abs=1e-4)


@pytest.mark.parametrize("journey", ["decoder"], indirect=True)
def test_asked_of_a_layout(pool: Pool, journey: Journey, run: Path) -> None:
    verb, *question = journey.asked
    assert laid_out(pool, 2, verb, run, *question, "layout.tp=2") == ask(journey, run)


def test_serve(journey: Journey, run: Path) -> None:
    with serving(WorkerSpec("mine", str(run), journey.backend, "fp32")) as client:
        told = client.post(journey.path, json=journey.body)
        (model,) = client.get("/v1/models").json()["data"]
    assert told.status_code == 200 and model["id"] == "mine"
    assert journey.printed(told.json()) + "\n" == ask(journey, run)


@pytest.mark.parametrize("journey", ["decoder", "encoder"], indirect=True)
def test_export_and_import(journey: Journey, run: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    phalanx("export", run, there)
    phalanx("import", f"hf:{there}", *journey.imported, "--out", back)
    config, again = (RunFolder.open(each).config() for each in (run, back))
    assert spec_of(again.model) == spec_of(config.model) and again.task == config.task
    assert ask(journey, back) == ask(journey, run)

    weights, others = (Checkpointer(RunFolder.open(each)).weights(best=True) for each in (run, back))
    sizes = {p.name: p.shape for p in spec_of(config.model).parameters()}
    assert weights.keys() == others.keys() == sizes.keys()
    for name, tensor in weights.items():
        rows = config.model.vocab if len(tensor) == config.model.padded_vocab else len(tensor)  # the rest fills up
        assert torch.equal(tensor[:rows], others[name][:rows]), name
