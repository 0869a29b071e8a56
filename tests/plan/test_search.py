"""Layouts found, named, and refused with what would do."""

import json
from dataclasses import replace
from typing import Any

import pytest

from phalanx import recipe
from phalanx.config import Config, LayoutConfig
from phalanx.errors import InputError
from phalanx.plan import cluster
from phalanx.plan.layout_names import pins, short
from phalanx.plan.memory import memory
from phalanx.plan.predict import predict
from phalanx.plan.proposal import Question, answer
from phalanx.plan.render import document, table, why
from phalanx.plan.search import ROOM, search
from phalanx.plan.workload import Workload
from phalanx.train.resolve import Target, resolve

H100 = cluster.load("h100-eos")


def question(name: str = "gpt2-355m", *words: str, where: str = "h100-eos", gpus: int = 16, **more: Any) -> Question:
    return Question(name, ("train.batch=64", *words), where, cluster.load(where), gpus, 1e9, **more)


def predicted(config: Config) -> float:
    work = Workload.of(config)
    return predict(work if config.layout.schedule == "zbv" else replace(work, pointwise="fused"), H100).seconds


@pytest.mark.slow
def test_nothing_that_fits_is_faster() -> None:
    """The search by least times ends early; here all layouts are worked out."""
    asked = question(gpus=8)
    config = asked.config
    early, every = search(config, H100, 8, {}, 5), search(config, H100, 8, {}, 10**6)
    assert early.worked_out < every.worked_out == every.layouts
    assert [p.prediction.seconds for p in early.best] == [p.prediction.seconds for p in every.best[:5]]
    for planned in every.best:
        assert planned.prediction.seconds == pytest.approx(predicted(planned.config))
        assert sum(planned.memory) <= ROOM * H100.gpu.memory
        assert resolve(planned.config, Target(8)).layout == planned.config.layout
    named = {short(planned.config.layout) for planned in every.best}
    assert len(named) == len(every.best) and {"dp8 mb8", "tp8 dp1 mb64"} <= named


def test_as_little_recompute_as_fits() -> None:
    """Where a layout needs recompute, the same layout with less does not fit."""
    asked = question("gpt2-1.5b", where="t4", gpus=16)
    found = search(asked.config, asked.cluster, 16, {}, 50)
    again = [p.config for p in found.best if p.config.layout.recompute != "none"]
    assert again and found.too_large
    for config in again:
        less = config.layout.model_copy(update={"recompute": "none"})
        ranks = {0, less.pp - 1}
        needed = max(sum(memory(config.model_copy(update={"layout": less}), pp)) for pp in ranks)
        assert needed > ROOM * asked.cluster.gpu.memory


def test_a_sequence_that_does_not_divide_among_tensor_parallel_ranks() -> None:
    """1,024 tokens are no multiple of three: such layouts keep whole sequences, and the others are there."""
    config = resolve(recipe.load("gpt2-124m", ["train.batch=12"]), Target(1))
    found = search(config, cluster.load("h100-eos"), 6, {})
    assert found.best and all(one.config.layout.tp % 3 or not one.config.layout.sequence_parallel for one in found.best)
    (wide, *_) = search(config, cluster.load("h100-eos"), 6, {"tp": 3}).best
    assert not wide.config.layout.sequence_parallel


def test_words_of_the_layout_are_kept() -> None:
    found = answer(question("gpt2-355m", "layout.tp=2", "layout.shard=zero3"), 10)
    assert {(p.config.layout.tp, p.config.layout.shard) for p in found.best} == {(2, "zero3")}


@pytest.mark.parametrize(
    "layout",
    [
        LayoutConfig(dp=8, micro_batch=4),
        LayoutConfig(tp=4, pp=2, chunks=6, schedule="interleaved", dp=64, micro_batch=4, shard="zero2"),
        LayoutConfig(tp=2, sequence_parallel=False, pp=4, schedule="zbv", dp=1, micro_batch=1),
        LayoutConfig(cp=4, context="ring", dp=2, micro_batch=1, shard="zero3", recompute="block"),
    ],
)
def test_a_name_tells_the_layout(layout: LayoutConfig) -> None:
    assert LayoutConfig(**pins(short(layout))) == layout


@pytest.mark.parametrize("text", ["tp", "4tp", "zz3", "tp4 nonsense"])
def test_a_name_that_tells_nothing(text: str) -> None:
    with pytest.raises(InputError, match="says nothing about a layout"):
        pins(text)


def test_the_table_fits_a_terminal_and_its_commands_run() -> None:
    asked = question(price=2.5)
    found = answer(asked, 10)
    lines = table(asked, found)
    at = lines.index("", 4)
    assert max(map(len, lines[:at])) <= 120
    commands = lines[at + 1 :]
    assert len(commands) == len(found.best) == 10
    for command, planned in zip(commands, found.best, strict=True):
        words = [word for word in command.split() if "=" in word and not word.startswith("data.")]
        assert resolve(recipe.load("gpt2-355m", words), Target(16)).layout == planned.config.layout
        assert "--nodes 2 --gpus-per-node 8" in command


def test_json() -> None:
    asked = question(price=2.0)
    said = json.loads(json.dumps(document(asked, answer(asked, 3))))
    first = said["best"][0]
    assert len(said["best"]) == 3 and first["seconds"] <= said["best"][1]["seconds"]
    assert first["tokens_per_s"] == pytest.approx(64 * 1024 / first["seconds"])
    assert first["days"] * 86400 * first["tokens_per_s"] == pytest.approx(1e9, rel=1e-3)
    assert first["dollars"] == pytest.approx(first["days"] * 24 * 16 * 2.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pp8", "slower than"),
        ("zero3 block", "slower than"),
        ("wide", "slower than"),
        ("tp3", "divides on no layout; layout.tp=3"),
        ("pp64", "divides on no layout"),
    ],
)
def test_why(text: str, said: str) -> None:
    assert said in why(question(), text)[-1]


def test_why_not_the_best() -> None:
    asked = question()
    assert "did not lose" in why(asked, short(answer(asked, 1).best[0].config.layout))[0]
    assert "too large" in why(question("gpt2-8.3b", where="t4", gpus=32), "tp1 pp1 replicated")[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (question("gpt2-8.3b", where="t4", gpus=2), r"fits on no layout of 2 GPUs: .* GPUs hold it, as"),
        (question(gpus=12), "use 8 or 16"),
        (
            question("gpt2-355m", "layout.tp=1", "layout.pp=1", "layout.cp=1", "train.batch=20"),
            "nearest that does is 16",
        ),
        (question("gpt2-355m", "layout.tp=3"), "divides this model"),
    ],
)
def test_where_nothing_works_the_nearest_is_named(asked: Question, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        answer(asked, 1)
    assert "\n" not in str(error.value)
