"""A page of its own: one HTML file that asks the network for nothing, in light and in dark."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowertune.errors import printable

_STYLE = Path(__file__).parent / "assets" / "page.css"
_NO_NETWORK = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Section:
    """A part of a page. `body` is HTML; `id` is what links to it go by."""

    id: str
    title: str
    body: str


def escaped(text: str) -> str:
    """Text as HTML shows it, whatever is in it."""
    return html.escape(text)


def document(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole file. `title` is text; `lead` is HTML and stands above the links to the parts."""
    links = "".join(
        f'<li><a href="#{escaped(each.id)}">{escaped(each.title)}</a></li>' for each in sections
    )
    parts = "".join(
        f'<section id="{escaped(each.id)}">\n'
        f"<h2>{escaped(each.title)}</h2>\n{each.body}</section>\n"
        for each in sections
    )
    return f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_NO_NETWORK}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(title)}</title>
<style>
{_STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<h1>{escaped(title)}</h1>
{lead}
<nav aria-label="Contents"><ul>{links}</ul></nav>
<main id="content">
{parts}</main>
</body>
</html>
"""


def paragraph(text: str, kind: str = "") -> str:
    """Text as a paragraph; `kind` note is fainter."""
    return f'<p class="{kind}">{escaped(text)}</p>\n' if kind else f"<p>{escaped(text)}</p>\n"


def bullets(texts: Sequence[str], kind: str = "") -> str:
    """Texts as a list."""
    items = "".join(f"<li>{escaped(text)}</li>\n" for text in texts)
    return f'<ul class="{kind}">\n{items}</ul>\n' if kind else f"<ul>\n{items}</ul>\n"


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, numeric: Sequence[int]
) -> str:
    """A table of text that scrolls within itself where the screen is narrow.

    `numeric`: the columns that are numbers. The first column names its row.
    """
    kinds = [' class="number"' if place in numeric else "" for place in range(len(header))]
    titles = "".join(
        f'<th scope="col"{kind}>{escaped(title)}</th>'
        for title, kind in zip(header, kinds, strict=True)
    )
    lines = []
    for first, *others in rows:
        cells = "".join(
            f"<td{kind}>{escaped(cell)}</td>" for cell, kind in zip(others, kinds[1:], strict=True)
        )
        lines.append(f'<tr><th scope="row"{kinds[0]}>{escaped(first)}</th>{cells}</tr>\n')
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(caption)}">\n'
        f"<table>\n<caption>{escaped(caption)}</caption>\n<thead><tr>{titles}</tr></thead>\n"
        f"<tbody>\n{''.join(lines)}</tbody>\n</table>\n</div>\n"
    )


def figure(svg: str, caption: str, alternative: str) -> str:
    """A drawing, what it shows, and the same in words for who does not see it."""
    return (
        f'<figure>\n<div role="img" aria-label="{escaped(alternative)}">\n{svg}</div>\n'
        f"<figcaption>{escaped(caption)}</figcaption>\n</figure>\n"
    )


def picture(jpeg: str, alternative: str) -> str:
    """A JPEG (base64), and what it shows in words; any name may stand in them."""
    alternative = escaped(printable(alternative))
    return f'<img src="data:image/jpeg;base64,{jpeg}" alt="{alternative}">\n'


def folded(summary: str, body: str) -> str:
    """HTML that is seen when its summary is opened."""
    return f"<details>\n<summary>{escaped(summary)}</summary>\n{body}</details>\n"


def enlargeable(id: str, body: str) -> str:
    """A figure with a box that shows it in its own size, to be looked at part by part."""
    return (
        f'<div class="enlargeable">\n<input type="checkbox" id="{escaped(id)}">\n'
        f'<label for="{escaped(id)}">show it larger</label>\n{body}</div>\n'
    )
