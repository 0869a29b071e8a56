"""phalanx plan, trace: what is printed and written."""

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from phalanx import recipe
from phalanx.cli.app import app
from phalanx.errors import InputError
from phalanx.models.family import spec_of
from phalanx.plan import cluster, proposal
from phalanx.plan.search import SearchResult
from phalanx.units import parse_count

EOS = cluster.load("h100-eos")
SMALL = ["gpt2-124m", "model.layers=2", "model.hidden=128", "model.heads=4", "data.sequence=128", "train.batch=4"]


def say(*words: str) -> Result:
    return CliRunner().invoke(app, words, catch_exceptions=True)


def png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


def test_plan_without_its_verb() -> None:
    one, other = (say(*words, "gpt2-124m", "--gpus", "2", "--top", "1") for words in (["plan"], ["plan", "layouts"]))
    assert one.exit_code == 0 and one.stdout == other.stdout and "phalanx train gpt2-124m" in one.stdout


def test_plan_for_machines() -> None:
    told = json.loads(say("plan", "gpt2-124m", "--gpus", "2", "--tokens", "3B", "--json").stdout)
    assert told["tokens"] == pytest.approx(3e9, rel=1e-3) and told["gpus"] == 2 and len(told["best"]) == 10


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--cluster", "nowhere"], "nowhere"),
        (["--tokens", "many"], "many"),
        (["--why", "zz"], "zz"),
        (["--why", "tp0"], "layout.tp=0 will not do"),
        (["--gpus", "12"], "use 8 or 16"),
        (["--gpus", "0"], "--gpus 0"),
        (["--batch", "0"], "train.batch=0 will not do"),
        (["--precision", "fp8", "--cluster", "selene"], "precision.dtype=fp8 is not in A100"),
        (["--precision", "bf16", "--cluster", "dgx2"], "precision.dtype=bf16 is not in V100"),
    ],
)
def test_plan_refuses(words: list[str], told: str) -> None:
    refused = say("plan", "gpt2-124m", *words)
    assert isinstance(refused.exception, InputError)
    assert told in str(refused.exception) and "\n" not in str(refused.exception)


BERT = ["model.family=bert", "model.preset=base", "data.sequence=128"]


@pytest.mark.parametrize("verb", ["plan", "trace"])
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([*BERT, "task=classes"], "task=classes has as many classes"),
        ([*BERT, "task=choice"], "set model.classes"),
        ([*BERT, "task=mlm", "model.head=span"], "task=mlm does not train model.head=span; use task=span"),
        ([*BERT, "task=completion"], "task=completion is not for model.family=bert; use task=mlm"),
        ([*BERT], "task=clm is not for model.family=bert; use task=mlm"),
        (["task=span"], "model.family=gpt2"),
    ],
)
def test_a_task_that_a_model_does_not_learn_is_refused(verb: str, words: list[str], told: str) -> None:
    refused = say(verb, "gpt2-124m", *words)
    assert isinstance(refused.exception, InputError), refused.exception
    assert told in str(refused.exception) and "\n" not in str(refused.exception)


def test_fine_tuning_is_planned_with_its_own_head() -> None:
    """Which has next to nothing to do, where pretraining ends in a vocabulary."""
    heads = ["task=mlm"], ["task=classes", "model.classes=3"]
    mlm, classes = (
        json.loads(say("plan", "gpt2-124m", *BERT, *words, "--gpus", "1", "--json", "--top", "1").stdout)["best"][0]
        for words in heads
    )
    assert "loss" in mlm["parts"] and mlm["parts"]["head"] > 10 * classes["parts"]["head"]
    assert classes["seconds"] < mlm["seconds"]


def test_questions_of_several_candidates_stay_together() -> None:
    words = [*BERT, "task=choice", "model.classes=4", "train.batch=24"]
    told = json.loads(say("plan", "gpt2-124m", *words, "--gpus", "2", "--json").stdout)
    assert {row["layout"]["micro_batch"] % 4 for row in told["best"]} == {0}


def test_what_cards_lack_is_told() -> None:
    told = say("plan", "gpt2-124m", "--cluster", "dgx-1", "--top", "1").stdout.splitlines()
    assert "fp32" in told[0] and "--precision fp16 multiplies 8 times as fast" in told[-1]


@pytest.mark.slow
def test_a_batch_that_divides_badly_is_told() -> None:
    """513 sequences divide among 27 replicas, not among 64."""
    words = ["plan", "gpt2-124m", "--gpus", "64", "--top", "1", "--batch"]
    assert "train.batch=513 divides badly: 512 makes" in say(*words, "513").stdout.splitlines()[-1]
    assert "divides badly" not in say(*words, "512").stdout
    assert json.loads(say(*words, "513", "--json").stdout)["notes"]


@pytest.mark.parametrize(("gpus", "batch", "searches"), [(512, 256, 0), (512, 512, 0), (64, 7, 0), (64, 500, 1)])
def test_a_batch_is_compared_with_one_of_its_size(
    monkeypatch: pytest.MonkeyPatch, gpus: int, batch: int, searches: int
) -> None:
    """A larger batch is faster because it is larger: that this one divides badly does not follow."""
    where = cluster.names()[0]
    question = proposal.Question("gpt2-124m", (f"train.batch={batch}",), where, cluster.load(where), gpus)
    searched: list[int] = []
    nothing = SearchResult([])
    monkeypatch.setattr(proposal, "search", lambda config, *_: searched.append(config.train.batch) or nothing)
    assert proposal.better_batch(question, nothing) is None
    assert len(searched) == searches and all(abs(size - batch) <= 0.05 * batch for size in searched)


@pytest.mark.slow
def test_trace(tmp_path: Path) -> None:
    words = [
        *SMALL,
        "layout.tp=2",
        "--ranks",
        "4",
        "--out",
        str(tmp_path / "m.png"),
        "--export",
        str(tmp_path / "t.json"),
    ]
    told = say("trace", *words)
    assert told.exit_code == 0, told.exception
    assert "messages are as planned" in told.stdout and "all-gather" in told.stdout and png(tmp_path / "m.png")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert {"mm", "addmm", "all-gather tp", "all-reduce dp"} <= {event["name"] for event in spans}
    assert all(event["dur"] > 0 for event in spans)
    compute = [event for event in spans if event["tid"] == 1]
    assert all(a["ts"] + a["dur"] <= b["ts"] + 1e-6 for a, b in pairwise(compute))
    counters = [event for event in events if event["ph"] == "C"]
    assert counters and max(sum(event["args"].values()) for event in counters) > 0


def test_trace_for_machines() -> None:
    told = json.loads(say("trace", *SMALL, "--ranks", "2", "--rank", "1", "--json").stdout)
    assert told["messages_as_planned"] and told["coordinates"]["dp"] == 1
    assert sum(told["planned_peak"].values()) > 0 and told["flops"] == pytest.approx(told["planned_flops"], rel=0.01)


def test_trace_of_a_rank_that_is_not_there() -> None:
    refused = say("trace", *SMALL, "--ranks", "2", "--rank", "2")
    assert isinstance(refused.exception, InputError) and "use 0 to 1" in str(refused.exception)


@pytest.mark.slow
def test_table_and_curve(tmp_path: Path) -> None:
    assert "held back" in say("plan", "table", "--source", "sc21-t1").stdout
    rows = json.loads(say("plan", "table", "--source", "mcore-h100", "--json").stdout)
    assert all(abs(row["error"]) < 0.05 for row in rows)
    measured = [{"kind": "weak", "parallel": "tp", "processes": n, "model_flops_per_process": 1e10, "efficiency": 1 / n}
                for n in (1, 2)]  # fmt: skip
    (tmp_path / "m.json").write_text(json.dumps(measured))
    told = say("plan", "curve", "--out", str(tmp_path / "c.png"), "--measured", str(tmp_path / "m.json"))
    assert told.exit_code == 0 and png(tmp_path / "c.png") and "tp, weak" in told.stdout


def test_measurements_of_another_make(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('{"a": 1}')
    refused = say("plan", "curve", "--out", str(tmp_path / "c.png"), "--measured", str(tmp_path / "m.json"))
    assert isinstance(refused.exception, InputError) and not (tmp_path / "c.png").exists()


@pytest.mark.parametrize(("text", "number"), [("300B", 3e11), ("2.5e9", 2.5e9), ("1,000", 1000), ("8.3b", 8.3e9)])
def test_counts(text: str, number: float) -> None:
    assert parse_count(text, "--tokens") == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "x", "3Q", "-1", "0", "1e400"])
def test_no_counts(text: str) -> None:
    with pytest.raises(InputError, match="--tokens"):
        parse_count(text, "--tokens")


def test_what_is_not_counted_is_said() -> None:
    words = ["data.stop_at_documents=true", "--gpus", "2", "--top", "1"]
    assert "its mask takes are not counted" in say("plan", "gpt2-124m", *words).stdout
    assert "not counted" not in say("plan", "gpt2-124m", *words[1:]).stdout


@pytest.mark.parametrize("name", sorted({*recipe.names()} - {"finetune"}))  # whose model is another run's
def test_every_recipe_is_planned(name: str) -> None:
    """On as many GPUs as hold it, in one layout: a search looks at thousands."""
    one = "layout.cp=1 layout.pp=1 layout.sequence_parallel=true layout.schedule=1f1b layout.shard=zero3 " \
          "layout.recompute=block"  # fmt: skip
    elements = spec_of(proposal.Question(name, (), "h100-eos", EOS, 1).config.model).elements
    tp, dp = next((tp, dp) for most, tp, dp in ((2e9, 1, 8), (2e10, 1, 512), (1e12, 4, 1024)) if elements < most)
    asked = proposal.Question(name, (f"layout.tp={tp}", *one.split()), "h100-eos", EOS, tp * dp)
    (best,) = proposal.answer(asked, 1).best
    assert best.config.layout.dp == dp and best.prediction.seconds > 0


def test_the_long_context_of_the_page() -> None:
    """docs/planning.md shows a command and what it prints."""
    page = (Path(__file__).parents[2] / "docs" / "planning.md").read_text(encoding="utf-8")
    command, printed = re.findall(r"^(phalanx plan llama3-8b .*131072.*)\n```\n\n```\n(.*?)^```", page, re.M | re.S)[0]
    told = say(*shlex.split(command)[1:]).stdout
    assert told.split("\n\n")[1] == printed.rstrip().split("\n\n")[1]
