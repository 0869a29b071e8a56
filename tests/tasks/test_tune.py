"""Fine-tuning from the command line: what it learns, what it keeps, and how it refuses what cannot be."""

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from typer.testing import CliRunner

from phalanx.cli.app import app
from phalanx.errors import InputError
from phalanx.run.checkpoint import Checkpointer
from phalanx.run.folder import RunFolder
from phalanx.run.records import FILE, read
from phalanx.tasks.score import score
from tests.cli.running import phalanx
from tests.infer.runs import BERT, GPT, make_run

SMALL = [
    "model.dropout=0",
    "model.attention_dropout=0",
    "train.batch=16",
    "optim.lr=5e-3",
    "train.compile=off",
    "train.device=cpu",
    "optim.warmup=0",
]
GOOD, BAD = ["fine", "lovely", "great", "warm", "bright"], ["dull", "awful", "cold", "poor", "weak"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a tiny BERT with an arbitrary beginning."""
    run = tmp_path_factory.mktemp("bert") / "run"
    model = BERT.model.model_copy(update={"init_std": 0.1})
    make_run(run, BERT.model_copy(update={"model": model}), "bert-uncased")
    return run


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("gpt") / "run"
    make_run(run, GPT.model_copy(update={"model": GPT.model.model_copy(update={"init_std": 0.1})}), "gpt2")
    return run


@pytest.fixture(scope="module")
def sentiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as SST-2's, of sentences that a word or two decide."""
    folder, dice = tmp_path_factory.mktemp("sst2"), random.Random(1)
    for name, count in ("train", 200), ("dev", 60):
        rows = ["sentence\tlabel"]
        for n in range(count):
            words = ["the", "film", "was", dice.choice(GOOD if n % 2 else BAD)]
            rows.append(f"{' '.join(words)}\t{n % 2}")
        (folder / f"{name}.tsv").write_text("\n".join(rows) + "\n")
    return folder


def valids(run: Path) -> list[dict[str, Any]]:
    return [record for record in read(run / FILE) if record["kind"] == "valid"]


@pytest.mark.slow
def test_sentiment(bert: Path, sentiment: Path, tmp_path: Path) -> None:
    """The best checkpoint by accuracy is kept, judged again and exported answers are those that are scored."""
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    out = tmp_path / "tuned"
    said = phalanx("tune", bert, "--task", "sst2", "--data", sentiment, *SMALL, "--epochs", 8, "--out", out)
    assert "at random: answer.classifier.bias, answer.classifier.weight; of no use here: masked." in said
    best = max(valids(out), key=lambda record: record["accuracy"])
    assert f"accuracy {best['accuracy']:.4f} at step {best['step']:,}" in said and best["accuracy"] > 0.95
    file = tmp_path / "p.jsonl"
    said = phalanx("eval", out, "--task", "sst2", "--data", sentiment, "--predictions", file)
    assert "the share that is right" in said and "60 examples" in said
    found = [json.loads(line) for line in file.read_text().splitlines()]
    right, guessed = [one["label"] for one in found], [one["said"] for one in found]
    values = score(out).values
    assert values["accuracy"] == pytest.approx(best["accuracy"]) == accuracy_score(right, guessed)
    assert values["f1"] == pytest.approx(f1_score(right, guessed, pos_label="1"))
    assert values["matthews"] == pytest.approx(matthews_corrcoef(right, guessed))
    assert all(abs(sum(one["probabilities"].values()) - 1) < 1e-6 for one in found)
    assert score(out, limit=7).examples == 7


def test_the_body_is_taken_and_the_pooler_too(bert: Path, sentiment: Path, tmp_path: Path) -> None:
    words = [*SMALL, "optim.lr=1e-30", "train.steps=1", "train.eval_every=1"]
    phalanx("tune", bert, "--task", "sst2", "--data", sentiment, *words, "--out", tmp_path / "tuned")
    before, after = Checkpointer(RunFolder(bert)).weights(), Checkpointer(RunFolder(tmp_path / "tuned")).weights()
    for name in after:
        theirs = name.replace("answer.pooler", "pair.pooler")
        if theirs in before:
            assert np.array_equal(after[name].numpy(), before[theirs].numpy()), name
    assert {name for name in after if name not in before} == {
        f"answer.{part}.{kind}" for part in ("pooler", "classifier") for kind in ("weight", "bias")
    }


@pytest.mark.slow
def test_a_sweep_over_rates_and_seeds(bert: Path, sentiment: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    words = ["tune", bert, "--task", "sst2", "--data", sentiment, *SMALL, "train.steps=4", "--out", out]
    said = phalanx(*words, "--sweep", "lr=1e-6,1e-2", "--seeds", 2)
    told = json.loads((out / "summary.json").read_text())
    assert [(one["lr"], one["seed"]) for one in told] == [
        ("1e-6", "1234"), ("1e-6", "1235"), ("1e-2", "1234"), ("1e-2", "1235"),
    ]  # fmt: skip
    for one in told:
        config = RunFolder.open(one["run"]).config()
        assert (config.optim.lr, config.train.seed) == (float(one["lr"]), int(one["seed"]))
        assert one["accuracy"] == max(record["accuracy"] for record in valids(Path(one["run"])))
    best = max(told, key=lambda one: one["accuracy"])["accuracy"]
    assert "± sd" in said and f"{best:.4f}" in said.splitlines()[-2 if best else -3] + said.splitlines()[-3]
    again = phalanx(*words, "--sweep", "lr=1e-6,1e-2", "--seeds", 2)
    assert again.count("is finished at step 4") == 4 and again.splitlines()[-4:] == said.splitlines()[-4:]


def test_a_few_questions_of_several_windows(bert: Path, tmp_path: Path) -> None:
    """`train.eval_sequences` counts questions, which may take more windows than that."""
    context = "The old lighthouse stands on the far end of the northern pier, where gulls rest at dusk. " * 3
    asked = [{"id": f"q{n}", "question": "Where?", "answers": [{"text": "pier", "answer_start": context.index("pier")}]}
             for n in range(6)]  # fmt: skip
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"data": [{"title": "", "paragraphs": [{"context": context, "qas": asked}]}]}))
    words = [*SMALL, "train.batch=4", "train.steps=2", "train.eval_sequences=2", "examples.stride=4"]
    phalanx("tune", bert, "--task", "squad", "--data", file, "--valid", file, *words, "--out", tmp_path / "tuned")
    assert 0 <= valids(tmp_path / "tuned")[-1]["f1"] <= 100


@pytest.mark.slow
def test_sentences_of_many_lengths_share_a_graph(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that compiles its blocks does so once or twice, not for each length."""
    rows = (f"{' '.join([('fine', 'dull')[n % 2]] * (1 + n % 11))}\t{n % 2}" for n in range(88))
    (tmp_path / "a.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    words = [word for word in SMALL if not word.startswith("train.compile")]
    file = tmp_path / "a.tsv"
    phalanx("tune", bert, "--task", "classes", "--data", file, "--valid", file, *words, "train.compile=on",
            "train.batch=8", "train.steps=11", "--out", tmp_path / "tuned")  # fmt: skip
    assert 1 <= counters["stats"]["unique_graphs"] <= 3 and not counters["graph_break"]


@pytest.mark.slow
def test_completions(gpt: Path, tmp_path: Path) -> None:
    """A GPT learns to answer; what it predicts is the completion alone."""
    file = tmp_path / "pairs.jsonl"
    pairs = [("red means", " stop"), ("green means", " go"), ("amber means", " wait")] * 8
    file.write_text("".join(json.dumps({"prompt": a, "completion": b}) + "\n" for a, b in pairs))
    out = tmp_path / "tuned"
    words = ["--data", file, "--valid", file, *SMALL, "train.batch=8", "train.steps=40", "--out", out]
    phalanx("tune", gpt, "--task", "completion", *words)
    assert score(out).values["exact"] == 1
    assert phalanx("generate", out, "green means", "--greedy", "--tokens", 1).strip() == "green means go"
    with pytest.raises(InputError, match="is a folder; name the file"):
        score(out, data=str(tmp_path))


@pytest.mark.parametrize(
    ("task", "name", "content", "said"),
    [
        ("sst2", "a.tsv", "sentence\tlabel\ngood\t1\nbad\n", r"line 3: 1 cells, the first row has 2"),
        ("sst2", "a.tsv", "text\tlabel\ngood\t1\n", "line 2: no column 'sentence'"),
        ("sst2", "a.tsv", "sentence\tlabel\n", "has no rows"),
        ("sst2", "a.xml", "<a/>", "tables are .tsv, .csv or .jsonl"),
        ("stsb", "a.csv", "sentence1,sentence2,score\na,b,much\n", "line 2: 'much' is no finite number"),
        ("classes", "a.jsonl", '{"text": "a", "label": "b"}\n{"text": "a', "line 2 is not JSON.*cut off"),
        ("classes", "a.jsonl", '{"text": "a", "label": "b"}\n', "of 1 examples none can be held out"),
        ("squad", "a.json", '{"data": [{"paragraphs": [{"cont', "is not JSON.*cut off"),
        ("squad", "a.json", '{"data": []}', "has no questions"),
        ("squad", "a.json", '{"version": "1.1"}', "not of SQuAD's form"),
        ("squad", "a.json", json.dumps({"data": [{"paragraphs": [{"context": "It rains.", "qas": [{"id": "q7",
         "question": "?", "answers": [{"text": "snows", "answer_start": 3}]}]}]}]}),
         "question q7: the answer 'snows' is not at 3 of its context"),
        ("race", "a.jsonl", '{"article": "a", "question": "q", "options": ["b"], "answer": "C"}', "the answer C of 1"),
        ("race", "a.jsonl", '{"article": "a"}', "line 1: not of RACE's form"),
        ("tokens", "a.txt", "EU B-ORG\nrejects\n", "line 2: 'rejects' has a word but no tag"),
        ("squid", "a.tsv", "", "no task 'squid'; use one of sst2"),
    ],
)  # fmt: skip
def test_files_that_are_not_what_they_promise(
    bert: Path, tmp_path: Path, task: str, name: str, content: str, said: str
) -> None:
    (tmp_path / name).write_text(content)
    words = ["tune", bert, "--task", task, "--data", tmp_path / name, "--out", tmp_path / "out"]
    told = CliRunner().invoke(app, [*map(str, words)])
    assert isinstance(told.exception, InputError), told.output
    with pytest.raises(InputError, match=said):
        raise told.exception
    assert "\n" not in str(told.exception) and not (tmp_path / "out").exists()


def test_a_class_that_training_has_not(bert: Path, sentiment: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    phalanx("tune", bert, "--task", "sst2", "--data", sentiment, *SMALL, "train.steps=1", "--out", out)
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nso so\t2\n")
    with pytest.raises(InputError, match=r"dev\.tsv, line 2: the class '2' is not among those of training: 0, 1$"):
        score(out, "sst2", str(tmp_path / "dev.tsv"))
    with pytest.raises(InputError, match="was tuned for task=classes, and squad is of task=span"):
        score(out, "squad", str(tmp_path / "dev.tsv"))
    with pytest.raises(InputError, match="has no head for sst2; make one: phalanx tune"):
        score(bert, "sst2", str(tmp_path / "dev.tsv"))


def test_a_bert_completes_nothing_and_a_gpt_has_no_head(bert: Path, gpt: Path, sentiment: Path, tmp_path: Path) -> None:
    for run, task, said in (bert, "completion", "model.family=gpt2"), (gpt, "sst2", "model.family=bert"):
        words = ["tune", run, "--task", task, "--data", sentiment / "train.tsv", "--out", tmp_path / "out"]
        told = CliRunner().invoke(app, [*map(str, words), *(["--text", "sentence"] if task == "completion" else [])])
        assert isinstance(told.exception, InputError) and said in str(told.exception)
