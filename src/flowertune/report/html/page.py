"""Build a self-contained HTML page, without network access, light or dark."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowertune.errors import printable

_STYLE = Path(__file__).parent / "assets" / "page.css"
_NO_NETWORK = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Section:
    """Section of a page. `body` is HTML; links refer to `id`."""

    id: str
    title: str
    body: str


def escape(text: str) -> str:
    """Escape text for HTML."""
    return html.escape(text)


def document(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Build the whole page. `title` is text; `lead` is HTML above the links to the sections."""
    links = "".join(
        f'<li><a href="#{escape(part.id)}">{escape(part.title)}</a></li>' for part in sections
    )
    body = "".join(
        f'<section id="{escape(part.id)}">\n<h2>{escape(part.title)}</h2>\n{part.body}</section>\n'
        for part in sections
    )
    return f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_NO_NETWORK}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{_STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<h1>{escape(title)}</h1>
{lead}
<nav aria-label="Contents"><ul>{links}</ul></nav>
<main id="content">
{body}</main>
</body>
</html>
"""


def paragraph(text: str, style: str = "") -> str:
    """Render text as a paragraph; `style` note is fainter."""
    return f'<p class="{style}">{escape(text)}</p>\n' if style else f"<p>{escape(text)}</p>\n"


def bullets(texts: Sequence[str], style: str = "") -> str:
    """Render texts as a list."""
    items = "".join(f"<li>{escape(text)}</li>\n" for text in texts)
    return f'<ul class="{style}">\n{items}</ul>\n' if style else f"<ul>\n{items}</ul>\n"


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, numeric: Sequence[int]
) -> str:
    """Render a table of text that scrolls on narrow screens.

    `numeric`: the columns that are numbers. The first column names its row.
    """
    classes = [' class="number"' if column in numeric else "" for column in range(len(header))]
    titles = "".join(
        f'<th scope="col"{style}>{escape(title)}</th>'
        for title, style in zip(header, classes, strict=True)
    )
    body = []
    for first, *rest in rows:
        cells = "".join(
            f"<td{style}>{escape(cell)}</td>" for cell, style in zip(rest, classes[1:], strict=True)
        )
        body.append(f'<tr><th scope="row"{classes[0]}>{escape(first)}</th>{cells}</tr>\n')
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">\n'
        f"<table>\n<caption>{escape(caption)}</caption>\n<thead><tr>{titles}</tr></thead>\n"
        f"<tbody>\n{''.join(body)}</tbody>\n</table>\n</div>\n"
    )


def figure(svg: str, caption: str, alternative: str) -> str:
    """Render a drawing with its caption and alternative text."""
    return (
        f'<figure>\n<div role="img" aria-label="{escape(alternative)}">\n{svg}</div>\n'
        f"<figcaption>{escape(caption)}</figcaption>\n</figure>\n"
    )


def image(jpeg: str, alternative: str) -> str:
    """Render a base64 JPEG with its alternative text, which may contain any name."""
    alternative = escape(printable(alternative))
    return f'<img src="data:image/jpeg;base64,{jpeg}" alt="{alternative}">\n'


def toggle(summary: str, body: str) -> str:
    """Render HTML that is hidden until its summary is opened."""
    return f"<details>\n<summary>{escape(summary)}</summary>\n{body}</details>\n"


def enlargeable(id: str, body: str) -> str:
    """Render a figure with a checkbox that shows it at full size."""
    return (
        f'<div class="enlargeable">\n<input type="checkbox" id="{escape(id)}">\n'
        f'<label for="{escape(id)}">show it larger</label>\n{body}</div>\n'
    )
