"""report.html: what the quickstart found, with its curves as pictures, on one page that needs nothing else."""

from collections.abc import Iterator

from phalanx import durable
from phalanx.quickstart.learn import run_folder
from phalanx.quickstart.plan import Workspace
from phalanx.quickstart.resume import PARTED, WHOLE, describe_resumed, losses
from phalanx.quickstart.stages import Result
from phalanx.report import Curve, Mark, Panel, Section, curve_png, open_runs, page, panels
from phalanx.report.html import code, gallery, paragraph, picture, quote, table

FILE = "report.html"
SHOWN = ("Loss", "Held-out")  # beginnings of the titles of the curves that a newcomer wants

NEXT = (
    "phalanx tokenizer train MYTEXT/ --out my.json --vocab 8192",
    "phalanx prepare MYTEXT/ --out data/my --tokenizer my.json --document blank-line",
    "phalanx train gpt-tiny data.train=data/my --out runs/my",
    "phalanx report runs/my",
    'phalanx generate runs/my "Once"',
)


def write_page(workspace: Workspace) -> Result:
    """Write FOLDER/report.html."""
    results, path = workspace.results, workspace.folder / FILE
    samples = "".join(quote(prompt, text) for prompt, text in results["samples"]["samples"])
    own = paragraph("The same with a text of your own, a folder of .txt files:") + code("\n".join(NEXT))
    sections = [
        Section("What happened", table(("", "before training", "after"), _figures(results)) + _text(results)),
        Section("GPT: continuing a text", samples + _curves(workspace, "gpt")),
        Section("BERT: filling a gap", _filled(results["masks"]) + _curves(workspace, "bert")),
        Section("A run that was interrupted", _resumed(workspace)),
        Section("What to do next", own),
    ]
    durable.write(path, page("Phalanx quickstart", sections, "A GPT and a BERT learned English here").encode())
    return {"at": str(path)}


def describe_page(result: Result) -> Iterator[str]:
    """Yield where the page is."""
    yield f"Open {result['at']} in a browser."


def _figures(results: dict[str, Result]) -> list[list[str]]:
    rows = (
        ("GPT: held-out perplexity", "gpt", "perplexity", "{:,.1f}"),
        ("BERT: held-out perplexity of hidden pieces", "bert", "perplexity", "{:,.1f}"),
        ("BERT: hidden pieces guessed exactly", "bert", "mlm_accuracy", "{:.1%}"),
    )
    return [
        [title, *(form.format(results[model][when][key]) for when in ("before", "after"))]
        for title, model, key, form in rows
    ]


def _text(results: dict[str, Result]) -> str:
    words = results["text"]["words"]
    return paragraph(
        f"Both learned from {results['text']['novels']} novels in the public domain ({words['train']:,} words) and "
        f"were measured on another that neither has seen ({words['held-out']:,} words). They are thousands of times "
        "smaller than the models of the news and read for a minute or so: they know how English goes, not what it "
        "means."
    )


def _curves(workspace: Workspace, name: str) -> str:
    drawn = [panel for panel in panels(open_runs([run_folder(workspace, name)])) if panel.title.startswith(SHOWN)]
    return gallery(picture(curve_png(panel), f"{panel.title} of {name.upper()} by step") for panel in drawn)


def _filled(masks: Result) -> str:
    rows = [[text, ", ".join(f"{word} {chance:.0%}" for word, chance in words)] for text, words in masks["filled"]]
    return table(("sentence", "likeliest words"), rows)


def _resumed(workspace: Workspace) -> str:
    result = workspace.results["resume"]
    alone, parted = (losses(run_folder(workspace, name)) for name in (WHOLE, PARTED))
    curves = [
        Curve("left alone", [*alone], [*alone.values()], 0, "wide"),
        Curve("stopped and resumed", [*parted], [*parted.values()], 1),
    ]
    stop = Mark(result["stopped_after"], "stopped", color=5)
    png = curve_png(Panel("Training loss of two runs", curves, [stop]))
    outcome = "".join(map(paragraph, describe_resumed(result)))
    return outcome + picture(png, "Training loss by step of the run left alone and of the interrupted one: one curve")
