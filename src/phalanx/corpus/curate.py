"""`phalanx curate`: raw text in, text that is worth training on out, and a report of what went and why."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from phalanx.corpus import engines
from phalanx.corpus.report import read, table
from phalanx.corpus.settings import Settings, begin
from phalanx.corpus.stages import RULES, stages, write_known
from phalanx.corpus.steps import identifier
from phalanx.errors import InputError


def curate(settings: Settings, out: Path, engine: str, workers: int, options: Mapping[str, str]) -> list[str]:
    """Do what is left of a curation. Return the lines to print."""
    if settings.language not in (known := identifier().labels):
        raise InputError(f"--language {settings.language} is not known; known are {', '.join(sorted(known))}")

    places = begin(settings, out)
    write_known(settings, places)
    columns = TextColumn("curating"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeRemainingColumn()
    with Progress(*columns, transient=True) as bar:
        job = bar.add_task("")

        def progress(done: int, total: int) -> None:
            bar.update(job, completed=done, total=total)

        ended = engines.run(stages(settings, places), places.work("."), engine, workers, options, progress)

    if not ended:
        return [f"submitted; {out / 'report.md'} will tell what was removed, and {places.text} holds what is kept"]
    return [*table(read(places), RULES), f"{places.text}; samples of what was removed: {out / 'report.md'}"]


def options_of(words: Sequence[str]) -> dict[str, str]:
    """Return key=value words as a mapping."""
    return dict(word.partition("=")[::2] for word in words)
