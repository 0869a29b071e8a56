"""Reports: the right facts on a page that needs nothing else, and one clear line for what is no run."""

import base64
import io
import json
import math
import re
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from typer.testing import CliRunner

from phalanx.cli.app import app
from phalanx.errors import InputError
from phalanx.report import Curve, Mark, Panel, Section, curve_png, open_runs, page, panels, report
from phalanx.report.canvas import SIZE
from phalanx.report.curves import smooth
from phalanx.report.html import code, paragraph, quote, table
from phalanx.report.runs import differences, summary, warning
from phalanx.run.records import FILE


def make(folder: Path, steps: int = 100, best: int = 60, lr: float = 3e-4, slope: float = 0.01) -> Path:
    """A run, in the records that training writes, whose held-out loss is lowest, exactly 3.0, at step `best`."""
    folder.mkdir()
    (folder / "config.toml").write_text(f'task = "clm"\n[optim]\nlr = {lr}\n[train]\nsteps = {steps}\n')
    records: list[dict[str, object]] = [{"step": 0, "kind": "start", "parameters": 12_345_678, "device": "cpu"}]
    for step in range(1, steps + 1):
        records.append({
            "step": step, "kind": "train", "loss": None if step == 5 else 2 + 8 / step, "lr": lr, "grad_norm": 1.0,
            "tokens": 1000 * step, "tokens_per_s": 2500.0, "seconds": 0.4 * step, "skipped": float(step >= 5),
        })  # fmt: skip
        if step % 10 == 0:
            held_out = 3 + abs(step - best) * slope
            records.append({
                "step": step, "kind": "valid", "loss": held_out, "perplexity": math.exp(held_out), "lm_accuracy": 0.5,
                "f1": 0.4, "tokens": 9,
            })  # fmt: skip
    (folder / FILE).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def pixels(png: bytes) -> np.ndarray:
    return matplotlib.image.imread(io.BytesIO(png), format="png")


def cells(html: str) -> dict[str, list[str]]:
    """Rows of the page's tables: name -> values."""
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', html)
    return {name: re.findall("<td>(.*?)</td>", values) for name, values in rows}


@pytest.mark.slow
def test_a_report_is_whole_by_itself(tmp_path: Path) -> None:
    out, png = tmp_path / "new" / "report.html", tmp_path / "curves.png"
    report([make(tmp_path / "one"), make(tmp_path / "two", best=100, lr=1e-3)], out, png)
    html = out.read_text()
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import|https?:", html)
    pictures = re.findall(r'<img alt="([^"]+)" src="data:image/png;base64,([^"]+)"', html)
    assert [name.removesuffix(" by step") for name, _ in pictures] == [
        "Loss (held-out dashed)", "Held-out perplexity", "Held-out lm accuracy", "Held-out f1", "Learning rate",
        "Gradient norm", "Tokens per second",
    ]  # fmt: skip
    for _, data in pictures:
        height, width, _ = pixels(base64.b64decode(data)).shape
        assert (width, height) == (round(SIZE[0] * 160), round(SIZE[1] * 160))
    rows = cells(html)
    assert rows["best held-out loss"] == ["3.0000 at step 60", "3.0000 at step 100"]
    assert rows["best perplexity"] == ["20.09", "20.09"]
    assert rows["last held-out loss"] == ["3.4000", "3.0000"]
    assert rows["parameters"] == ["12.3M", "12.3M"]
    assert rows["tokens seen"] == ["100k", "100k"]
    assert rows["skipped steps"] == ["1", "1"]
    assert rows["time"] == ["0:40", "0:40"]
    assert "one overfits after step 60" in html and "two overfits" not in html
    assert pixels(png.read_bytes()).shape[1] == 2 * round(SIZE[0] * 160)


@pytest.mark.parametrize(
    ("words", "page"), [("one", "one/report.html"), ("one two", "report.html"), ("one --out o/p.html", "o/p.html")]
)
def test_where_the_page_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, page: str) -> None:
    """Of one run into its folder; of several, which belong to none of them, where the user is."""
    monkeypatch.chdir(tmp_path)
    for run in "one", "two":
        Path(run).mkdir()
    drawn = []
    monkeypatch.setattr("phalanx.report.report", lambda *arguments: drawn.append(arguments))
    told = CliRunner().invoke(app, ["report", *words.split()], catch_exceptions=False)
    ((_, out, png),) = drawn
    assert (out, png) == (Path(page), Path(page).with_suffix(".png"))
    assert told.stdout == f"{out} and {png}\n"


def test_what_differs(tmp_path: Path) -> None:
    runs = open_runs([make(tmp_path / "one"), make(tmp_path / "two", lr=1e-3)])
    assert differences(runs) == (["key", "one", "two"], [["optim.lr", "0.0003", "0.001"]])


def test_overfitting_needs_a_clear_rise(tmp_path: Path) -> None:
    falling, fresh, rising = open_runs([make(tmp_path / str(best), best=best) for best in (100, 90, 50)])
    (level,) = open_runs([make(tmp_path / "level", best=50, slope=0.0001)])
    assert [warning(run) for run in (falling, fresh, level)] == ["", "", ""]
    assert "rose from 3.0000 to 3.5000" in warning(rising)
    (loss, *_), (calm, *_) = panels([rising]), panels([falling])
    assert [(mark.step, mark.value, mark.end) for mark in loss.marks] == [(50, 3.0, None), (50, None, 100)]
    assert [(mark.step, mark.value, mark.end) for mark in calm.marks] == [(100, 3.0, None)]


def test_a_run_without_evaluations_or_configuration(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(
        '{"step": 1, "kind": "train", "loss": 2.5}\n{"step": 2, "kind": "train", "loss": null}\n'
    )
    out = tmp_path / "report.html"
    report([tmp_path], out)
    assert cells(out.read_text())["last training loss, smoothed"] == ["2.5000"]
    assert [panel.title for panel in panels(open_runs([tmp_path]))] == ["Loss"]


def test_the_last_record_of_a_step_counts(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"step": 0, "kind": "valid", "loss": 9}\n{"step": 0, "kind": "valid", "loss": 8}\n')
    (run,) = open_runs([tmp_path])
    assert run.best == (0, 8)


def test_runs_of_one_name_go_by_their_paths(tmp_path: Path) -> None:
    for parent in "ab":
        (tmp_path / parent).mkdir()
    folders = [make(tmp_path / parent / "run") for parent in "ab"]
    assert summary(open_runs(folders))[0][1:] == [str(folder) for folder in folders]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"has no metrics\.jsonl"),
        ("", "holds no steps yet"),
        ('{"step": 0, "kind": "start"}\n', "holds no steps yet"),
        ('nonsense\n{"step": 1, "kind": "train"}\n', "line 1: not a metrics record"),
    ],
)
def test_what_is_no_run_is_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / FILE).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        report([tmp_path], tmp_path / "report.html")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_a_missing_folder_and_an_unwritable_place(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone is not a folder"):
        report([tmp_path / "gone"], tmp_path / "report.html")
    (tmp_path / FILE).write_text('{"step": 1, "kind": "train", "loss": 2.5}\n')
    with pytest.raises(InputError, match="cannot write the report"):
        report([tmp_path], tmp_path / FILE / "report.html")


def test_text_is_escaped() -> None:
    nasty = "<script>&\"'</script>"
    body = paragraph(nasty) + quote(nasty, nasty) + code(nasty) + table([nasty], [[nasty, nasty]])
    html = page(nasty, [Section(nasty, body)], nasty)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 11


def test_equal_curves_cover_each_other() -> None:
    """The proof of a resume: a thin line hides nothing of the wide one unless the curves part."""
    steps = np.arange(1, 51)
    losses = 5 - np.log(steps)

    def picture(second: np.ndarray) -> np.ndarray:
        curves = [Curve("whole", steps, losses, 0, "wide"), Curve("resumed", steps, second, 1)]
        return pixels(curve_png(Panel("Loss", curves, [Mark(25, "stopped $here$", color=1)])))

    same, parted = picture(losses), picture(losses + (steps > 25) * 0.3)
    assert np.array_equal(same, picture(losses.copy()))
    assert not np.array_equal(same, parted)


def test_smoothing_follows_the_start_and_skips_gaps() -> None:
    losses = 3 + 7 * np.exp(-np.arange(2000) / 50)
    assert np.abs(smooth(losses)[300:] - losses[300:]).max() < 0.2
    assert np.abs(smooth(losses)[:300] - losses[:300]).max() < 1
    noisy = smooth(3 + np.random.default_rng(0).normal(0, 1, 2000))
    assert noisy[500:].std() < 0.2
    assert smooth(np.array([math.nan, 2.0, math.nan]))[1:].tolist() == [2.0, 2.0]
