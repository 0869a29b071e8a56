"""Data from outside go where prepared sets go."""

from pathlib import Path

import pytest

from phalanx.data.source import Blend
from phalanx.data.source_names import names_source
from phalanx.errors import InputError
from phalanx.tasks.preflight import task_of
from phalanx.tasks.run import train
from phalanx.tasks.score import score
from phalanx.tasks.show import show
from tests.layouts.conftest import Alone
from tests.layouts.curves import curve as train_and_tell
from tests.layouts.curves import farthest
from tests.layouts.pool import Pool
from tests.strangers.finished import finished
from tests.train.runs import Corpus

HERE = "tests.strangers.sources"
SUMS = [f"data.train={HERE}:Sums", "train.steps=6", "train.eval_every=3"]
TOLERANCE = 1e-4  # of 6 steps in fp32


def test_one_curve(pool: Pool, alone: Alone, corpus: Corpus) -> None:
    found = pool.run(4, train_and_tell, corpus.folder, "gpt", *SUMS, "layout.tp=2")
    assert farthest(found[0], alone("gpt", *SUMS)) < TOLERANCE


@pytest.fixture(scope="module")
def run(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    return finished(corpus, tmp_path_factory.mktemp("sums"), *SUMS)


def test_a_run_is_judged(run: Path) -> None:
    for data in ("", f"{HERE}:Sums"):
        told = score(run, data=data, limit=4)
        assert told.examples == 4 and told.values["loss"] > 0 and told.values["bits_per_byte"] > 0


def test_a_run_whose_data_have_changed_does_not_go_on(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.strangers import sources

    monkeypatch.setattr(sources, "Sums", sources.Changed)
    with pytest.raises(InputError, match=f"^{HERE}:Sums has changed since .* began; put the old set back"):
        train(str(run), quiet=True)


def test_it_is_cut_and_blended_as_sets_are(corpus: Corpus) -> None:
    own, other = f"{HERE}:Sums", str(corpus.folder / "gpt")
    task = task_of(corpus.config("gpt", f"data.train={own}@1,{other}@3", "data.split=0.8,0.2,0"))
    assert isinstance(task.train, Blend) and task.train.counts == [1024, 3072]
    assert task.config.data.train[0] == f"{own}@1", "no path is made of it"  # type: ignore[attr-defined]

    task = task_of(corpus.config("gpt", f"data.train={own}", "data.split=0.8,0.2,0"))
    questions = [bytes(task.train[n].tokens) for n in range(2000)]
    assert task.valid is not None and len(task.valid) == 500 and len({*questions}) == 2000
    assert {bytes(task.valid.sample(i, 0).tokens) for i in range(500)}.isdisjoint(questions)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Short", rf"{HERE}:Short: sample \d+ has 31 tokens; data.sequence=32 of them are wanted"),
        ("Strange", rf"{HERE}:Strange: sample \d+ has tokens beyond the 320 of the tokenizer"),
        ("Empty", rf"{HERE}:Empty has 0 samples, of which data.split=.* leaves none for training"),
        ("np", rf"data source '{HERE}:np' is none: it has no __len__$"),
        ("Absent", rf"data source '{HERE}:Absent' cannot be loaded"),
    ],
)
def test_what_is_none_is_refused_in_one_line(corpus: Corpus, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        _ = task_of(corpus.config("gpt", f"data.train={HERE}:{name}")).train[0]


def test_a_sample_is_shown() -> None:
    told = show(f"{HERE}:Sums", 7, "", 16, ["data.tokenizer=gpt2"])
    assert told == "0 and 7 are 7\n\n16 tokens, 1 of them predicting the next"


def test_it_needs_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{HERE}:Sums has no tokenizer beside it; name one, as data.tokenizer=gpt2"):
        train("gpt-tiny", SUMS, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_set_of_such_a_name_is_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert names_source("books:v2") and names_source("a.b:C@0.5")
    (tmp_path / "books:v2.bin").touch()
    assert not names_source("books:v2@2") and not names_source("/data/a:b")
