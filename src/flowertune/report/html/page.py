"""Render a self-contained HTML page from a template, with all content escaped."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flowertune.errors import printable
from flowertune.report.results_table import percent

_FOLDER = Path(__file__).parent


def render(template: str, title: str, **content: Any) -> str:
    """Render a template of `templates/` that extends page.html.jinja."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": percent, "printable": printable}
    style = (_FOLDER / "assets" / "page.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(title=title, style=style, **content)
