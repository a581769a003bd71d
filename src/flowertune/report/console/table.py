"""Create console tables and their accuracy columns."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from flowertune.analysis.settings import METRICS, TOP1
from flowertune.analysis.statistics import estimate


def new_table(*titles: str | Text, numbers: Sequence[str]) -> Table:
    """Create a table with text columns `titles`, then right-aligned columns `numbers`."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in titles:
        table.add_column(title, min_width=None if table.columns else 12, overflow="fold")
    for title in numbers:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def accuracy_titles() -> list[str]:
    """Column titles of METRICS, with that of the interval below top-1."""
    return [
        f"{title}\n[dim]95% interval[/dim]" if metric == TOP1 else title.replace(" ", "\n", 1)
        for metric, title in METRICS.items()
    ]


def accuracy_cells(metrics: Mapping[str, Any]) -> list[str]:
    """Format METRICS of one run on a split: 91.23% [90.1, 92.3]."""
    cells = []
    for each in (estimate([metrics], metric) for metric in METRICS):
        interval = ", ".join(f"{100 * end:.1f}" for end in each.interval or ())
        cells.append(f"{each.mean:.2%}" + (f" [dim]\\[{interval}][/dim]" if interval else ""))
    return cells
