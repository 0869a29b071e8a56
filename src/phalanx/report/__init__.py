"""Reports of runs on one page: curves, a table, and what differed between them.

The pieces (`Panel` and `curve_png`, `Section` and `page`) know nothing of runs, so that other reports are made of them.
"""

from collections.abc import Sequence
from pathlib import Path

from phalanx import durable
from phalanx.errors import InputError
from phalanx.report.curves import Curve, Mark, Panel, curve_png
from phalanx.report.html import Section, gallery, page, paragraph, picture, table
from phalanx.report.panels import panels
from phalanx.report.runs import differences, open_runs, summary, warning

__all__ = ["Curve", "Mark", "Panel", "Section", "curve_png", "open_runs", "page", "panels", "report"]


def report(runs: Sequence[Path], out: Path, png: Path | None = None) -> None:
    """Write the report of run folders as one self-contained HTML file, and all its curves as one picture to `png`.

    InputError for a folder that is no run or has no metrics yet, and for a place that cannot be written.
    """
    if out.suffix.lower() == ".png":
        raise InputError(f"--out {out} is the name of the picture; give that of the page, {out.with_suffix('.html')}")

    read = open_runs(runs)
    drawn = panels(read)
    first, *others = [picture(curve_png(panel), f"{panel.title} by step") for panel in drawn]
    warnings = [paragraph(text, warning=True) for run in read if (text := warning(run))]

    sections = [Section("Summary", "".join(warnings) + gallery([table(*summary(read)), first]))]
    if others:
        sections.append(Section("Curves", gallery(others)))
    if len(read) > 1:
        sections.append(Section("What differs", table(*differences(read))))
    sections += [
        Section(f"Configuration of {run.name}", table(("key", "value"), list(run.config.items())), folded=True)
        for run in read
        if run.config
    ]

    _write(out, page("Training report", sections, ", ".join(run.name for run in read)).encode())
    if png:
        _write(png, curve_png(*drawn, columns=2))


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write(path, content)
    except OSError as error:
        raise InputError(f"{path}: cannot write the report: {error.strerror}; give another file") from error
