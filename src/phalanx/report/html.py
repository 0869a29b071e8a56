"""A page in one file: its style and pictures are in it, and it asks for nothing from anywhere.

Text given to these functions is escaped; `Section.body` alone is HTML, made by the functions here.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

_STYLE = """
:root { color-scheme: light; --ink: #1f2933; --soft: #5f6b7a; --line: #e1e6eb; --accent: #2f6db5; --warm: #d9622b; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 72rem; background: #f7f8fa; color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
header { border-bottom: 3px solid var(--accent); margin-bottom: 2rem; padding-bottom: 1rem; }
h1 { margin: 0; font-size: 2rem; line-height: 1.2; letter-spacing: -0.02em; }
header p { margin: 0.4rem 0 0; color: var(--soft); }
section, details { background: #fff; border: 1px solid var(--line); border-radius: 0.75rem; padding: 1.25rem;
  margin: 0 0 1.25rem; }
section > :last-child { margin-bottom: 0; }
h2, summary { margin: 0 0 0.75rem; font-size: 1.2rem; font-weight: 650; line-height: 1.3; }
details:not([open]) summary { margin: 0; }
summary { cursor: pointer; }
p { max-width: 44rem; margin: 0.6rem 0; }
p.warn { border-left: 4px solid var(--warm); background: #fdf3ed; padding: 0.6rem 0.9rem; }
.scroll { overflow-x: auto; min-width: 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 1.5rem 0.4rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tr:last-child > * { border-bottom: 0; }
thead th { color: var(--soft); font-weight: 600; }
tbody th { font-weight: 400; color: var(--soft); white-space: nowrap; }
td { overflow-wrap: anywhere; min-width: 6rem; }
.grid { display: grid; gap: 1rem 1.5rem; align-items: start;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); }
figure { margin: 0; min-width: 0; }
img { display: block; width: 100%; max-width: 46rem; height: auto; }
figcaption { color: var(--soft); font-size: 0.9rem; margin-top: 0.4rem; }
blockquote { margin: 0.9rem 0; padding: 0.2rem 0 0.2rem 1rem; border-left: 4px solid var(--line); max-width: 44rem;
  font-family: Georgia, "Times New Roman", serif; white-space: pre-wrap; overflow-wrap: anywhere; }
pre { margin: 0.6rem 0; padding: 0.8rem 1rem; background: #f1f4f7; border-radius: 0.5rem; overflow-x: auto;
  font: 0.9rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
"""


@dataclass(frozen=True)
class Section:
    """A part of a page; `folded` shows its title only until it is opened."""

    title: str
    body: str
    folded: bool = False


def page(title: str, sections: Sequence[Section], subtitle: str = "") -> str:
    """Return the whole HTML document."""
    below = f"<p>{escape(subtitle)}</p>" if subtitle else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1>{below}</header>\n"
        f"<main>\n{''.join(map(_section, sections))}</main>\n</body>\n</html>\n"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column names its rows; without any row, a sentence."""
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(value)}</td>" for value in values)}</tr>\n'
        for name, *values in rows
    )
    if not body:
        return paragraph("Nothing.")
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def picture(png: bytes, description: str, caption: str = "") -> str:
    """Return a picture with words for those who cannot see it."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    data = base64.b64encode(png).decode()
    return f'<figure><img alt="{escape(description)}" src="data:image/png;base64,{data}">{below}</figure>\n'


def gallery(pictures: Iterable[str]) -> str:
    """Return pictures beside each other as far as the screen is wide."""
    return f'<div class="grid">{"".join(pictures)}</div>'


def paragraph(text: str, warning: bool = False) -> str:
    """Return a paragraph; a warning stands out."""
    kind = ' class="warn"' if warning else ""
    return f"<p{kind}>{escape(text)}</p>\n"


def quote(prompt: str, text: str) -> str:
    """Return text that a model wrote, after its prompt in bold."""
    return f"<blockquote><b>{escape(prompt)}</b>{escape(text)}</blockquote>\n"


def code(text: str) -> str:
    """Return commands or output, as they are."""
    return f"<pre>{escape(text)}</pre>\n"


def _section(section: Section) -> str:
    title = escape(section.title)
    if section.folded:
        return f"<details><summary>{title}</summary>\n{section.body}</details>\n"
    return f"<section><h2>{title}</h2>\n{section.body}</section>\n"
