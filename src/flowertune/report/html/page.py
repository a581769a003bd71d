"""Render a self-contained HTML page from a template, which escapes what it is given."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flowertune.errors import printable
from flowertune.report.results_table import percent

_STYLE = Path(__file__).parent / "assets" / "page.css"
_TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, title: str, **content: Any) -> str:
    """Render a template of `templates/` that extends page.html.jinja. `title`: of the page."""
    style = _STYLE.read_text(encoding="utf-8")
    return _environment().get_template(template).render(title=title, style=style, **content)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": percent, "printable": printable}
    return environment
