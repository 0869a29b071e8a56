"""A GPT made here, exported, in EleutherAI's lm-evaluation-harness: its scores on a task of our own are ours.

Where the harness is not installed (pip install lm_eval[hf]) the test says so.
"""

import json
from pathlib import Path

import pytest

from phalanx.convert.huggingface import export_run
from phalanx.infer.bundle import load_bundle
from tests.infer.runs import GPT, make_run

lm_eval = pytest.importorskip("lm_eval", reason="the evaluation harness is not installed: pip install lm_eval[hf]")
pytest.importorskip("accelerate", reason="the harness loads models with accelerate: pip install lm_eval[hf]")

TASK = """\
task: ships
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
metric_list: [{{metric: acc}}]
"""


def test_the_harness_finds_what_we_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    make_run(tmp_path / "run", GPT, "gpt2")
    export_run(tmp_path / "run", tmp_path / "hf")
    rows = [
        {"text": f"The {one} sails", "choices": ["away", "home", "on"], "label": n % 3}
        for n, one in enumerate(["ship", "boat", "old brig", "frigate", "raft", "junk", "barque"])
    ]
    (tmp_path / "ships.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "ships.yaml").write_text(TASK.format(file=tmp_path / "ships.jsonl"))
    found = lm_eval.simple_evaluate(
        model="hf", model_args=f"pretrained={tmp_path / 'hf'},dtype=float32", tasks=["ships"], device="cpu",
        task_manager=TaskManager(include_path=str(tmp_path / "tasks")), bootstrap_iters=0,
    )  # fmt: skip
    loaded = load_bundle(tmp_path / "run")

    def likelihood(text: str, choice: str) -> float:
        context, more = loaded.tokenizer.encode(text), loaded.tokenizer.encode(f" {choice}")
        scores = loaded.logits([*context, *more][:-1]).log_softmax(-1)[-len(more) :]
        return float(scores[range(len(more)), more].sum())

    right = 0
    for row in rows:
        choices = [likelihood(str(row["text"]), choice) for choice in ("away", "home", "on")]
        right += choices.index(max(choices)) == row["label"]
    assert found["results"]["ships"]["acc,none"] == pytest.approx(right / len(rows))
