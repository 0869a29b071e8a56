"""Scores against the official figures and against scikit-learn and scipy."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from phalanx.score import classes, squad
from phalanx.score.detokenize import wikitext
from phalanx.score.squad import Reference

DATA = Path(os.environ.get("PHALANX_DATA", "../shared/data")) / "eval" / "squad_v1.1"


def test_the_published_predictions_have_the_published_score() -> None:
    """r-net's on SQuAD 1.1's development set: EM 82.4693, F1 88.4779."""
    if not DATA.is_dir():
        pytest.skip(f"{DATA} is not here")
    articles = json.loads((DATA / "dev-v1.1.json").read_text(encoding="utf-8"))["data"]
    questions = [qa for article in articles for paragraph in article["paragraphs"] for qa in paragraph["qas"]]
    references = [Reference(qa["id"], tuple(answer["text"] for answer in qa["answers"])) for qa in questions]
    predictions = json.loads((DATA / "pred-rnet-ensemble.json").read_text(encoding="utf-8"))
    scores = squad.score(references, predictions)
    assert len(references) == 10570
    assert scores == {"exact_match": pytest.approx(82.4693, abs=5e-5), "f1": pytest.approx(88.4779, abs=5e-5)}


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("The Denver Broncos!", ["Denver Broncos"], 1, 1),
        ("Broncos", ["Denver Broncos"], 0, 2 / 3),
        ("an apple  a day", ["apple day"], 1, 1),
        ("anthem", ["them"], 0, 0),
        ("", [], 1, 1),
        ("something", [], 0, 0),
        ("", ["something"], 0, 0),
        ("b", ["a b c", "b c"], 0, 2 / 3),
    ],
)
def test_answers(prediction: str, answers: list[str], exact: float, f1: float) -> None:
    assert squad.exact(prediction, answers) == exact
    assert squad.f1(prediction, answers) == pytest.approx(f1)


def test_silence() -> None:
    references = [Reference("a", ("x",)), Reference("b", ()), Reference("c", ("y",)), Reference("d", ())]
    answered = {"a": "x", "b": "z", "c": "y", "d": "w"}
    scores = squad.score(references, answered)
    assert (scores["f1"], scores["has_answer_f1"], scores["no_answer_f1"]) == (50, 100, 0)
    silence = {"a": -5.0, "b": 2.0, "c": 1.0, "d": 3.0}
    best = squad.threshold(references, answered, silence)
    kept = {key: text if silence[key] <= best else "" for key, text in answered.items()}
    assert best == 1.0 and squad.score(references, kept)["f1"] == 100


def test_a_question_without_a_prediction_is_wrong() -> None:
    assert squad.score([Reference("a", ("x",)), Reference("b", ("y",))], {"a": "x"})["exact_match"] == 50


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [2, 3])
def test_classes_as_scikit_learn(seed: int, count: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    dice = np.random.default_rng(seed)
    labels = dice.integers(count, size=200)
    predicted = np.where(dice.random(200) < 0.6, labels, dice.integers(count, size=200))
    assert classes.accuracy(predicted, labels) == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert classes.matthews(predicted, labels) == pytest.approx(metrics.matthews_corrcoef(labels, predicted))
    if count == 2:
        assert classes.f1(predicted, labels) == pytest.approx(metrics.f1_score(labels, predicted))


@pytest.mark.parametrize("seed", range(5))
def test_correlations_as_scipy(seed: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    dice = np.random.default_rng(seed)
    values = dice.integers(6, size=300) + dice.random(300).round(1)
    predicted = values + dice.normal(size=300).round(1)
    assert classes.pearson(predicted, values) == pytest.approx(stats.pearsonr(predicted, values).statistic)
    assert classes.spearman(predicted, values) == pytest.approx(stats.spearmanr(predicted, values).statistic)


def test_constant_predictions() -> None:
    assert classes.matthews([1, 1, 1], [0, 1, 1]) == classes.pearson([1, 1, 1], [0, 1, 1]) == 0
    assert classes.f1([0, 0], [0, 1]) == 0


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (" = = History = = \n A year : 1 @,@ 200 men . \n", "== History ==\nA year: 1,200 men.\n"),
        ("He said \" no \" ( twice ) , and it 's dogs ' food .", "He said \"no\" (twice), and it's dogs' food ."),
        ("a 30 @.@ 5 ° C well @-@ known [ 1 ] { x }", "a 30.5°C well-known [1] {x}"),
    ],
)
def test_wikitext_is_put_back(text: str, plain: str) -> None:
    assert wikitext(text).strip(" ") == plain
