"""The prediction of every published row stays as near as it is, and nothing is fitted to what it is judged by."""

import csv
import os
from pathlib import Path

import pytest

from phalanx.errors import InputError
from phalanx.plan import comparison, published
from phalanx.plan.comparison import Errors, errors, table

TRAIN = Path(os.environ.get("PHALANX_DATA", "../shared/data")).parent / "published" / "train.csv"

# Worst and mean error of each source's times, as far as the model has come: it may only get better.
BOUNDS = {
    "nv2019": (0.13, 0.06), "meg19": (0.15, 0.07), "meg19d": (0.10, 0.03), "megv1": (0.05, 0.03), "meg20": (0.09, 0.05),
    "sc21-t1": (0.07, 0.03), "seqsel-t4": (0.05, 0.03), "seqsel-t5": (0.05, 0.03), "mcore-h100": (0.04, 0.03),
    "dle-2019": (0.08, 0.04), "dle-2019h": (0.12, 0.05), "dle-2020": (0.16, 0.06), "dle-2022": (0.08, 0.04),
    "vtrain-s": (0.30, 0.075), "vtrain-m": (0.38, 0.09),
}  # fmt: skip


def judged(*sources: str) -> Errors:
    return errors([x for x in table() if x.timed and not x.why and (not sources or x.source in sources)])


@pytest.mark.parametrize("source", BOUNDS)
def test_errors_of_a_source(source: str) -> None:
    worst, mean = BOUNDS[source]
    found = judged(source)
    assert found.worst <= worst and found.mean <= mean


def test_errors_of_all() -> None:
    found = judged()
    assert found.count > 500 and found.median <= 0.05 and found.mean <= 0.08
    told = judged(*(source for source in BOUNDS if not source.startswith("vtrain")))
    assert told.worst <= 0.16 and told.mean <= 0.045


def test_no_source_is_without_a_bound() -> None:
    assert {x.source for x in table() if x.timed and not x.why} == set(BOUNDS)


def test_held_back_rows_are_more_than_the_fitted() -> None:
    roles = [published.role(row) for row in published.rows()]
    assert set(roles) == {"fitted", "held back", "not used"}
    assert roles.count("held back") > roles.count("fitted")
    fitted = {row["id"] for row in published.rows() if published.role(row) == "fitted"}
    assert all(one in fitted for ids in published.FITTED.values() for one in ids)


def test_a_row_that_is_not_used_says_why() -> None:
    for line in table():
        assert (line.predicted is None) == bool(line.why) == (line.role == "not used")


def test_all_rows_of_the_published_table_are_here() -> None:
    if not TRAIN.is_file():
        pytest.skip(f"{TRAIN} is not here")
    with TRAIN.open(newline="") as file:
        every = list(csv.DictReader(file))
    theirs = {row["id"]: (row["value"], row["unit"]) for row in every}
    ours = {row["id"]: (row["value"], row["unit"]) for row in published.rows()}
    assert ours == {key: theirs[key] for key in ours}
    missing = [row for row in every if row["id"] not in ours]
    used = {line.metric for line in table() if not line.why}
    assert not [row["id"] for row in missing if row["metric"] in used]  # accuracy, inference, other planners


def test_the_text_fits_a_terminal() -> None:
    lines = comparison.text()
    assert max(map(len, lines)) <= 120
    assert sum("held back" in line or "fitted" in line or "not used" in line for line in lines) > len(published.rows())


def test_an_unknown_source() -> None:
    with pytest.raises(InputError, match="sc21-t1"):
        comparison.text("nobody")
