"""What `flowertune data cache` says."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from flowertune.data.cache.listing import CacheEntry
from flowertune.errors import printable
from flowertune.files import format_bytes
from flowertune.report.console.run import ConsoleReporter

DAY = 86_400  # seconds


def show(console: ConsoleReporter, kept: Sequence[CacheEntry], root: Path) -> None:
    """A row for each, then the total and where they are."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("kind", no_wrap=True)
    table.add_column("of", overflow="fold", ratio=1)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("last used", justify="right", no_wrap=True)
    for each in kept:
        of = Text(printable(each.description))
        table.add_row(each.kind, of, format_bytes(each.bytes), _ago(each.last_used))
    if kept:
        console.console.print(table)
        console.say("")
    console.say(f"{total(kept)} in {printable(str(root))}")


def total(kept: Sequence[CacheEntry]) -> str:
    """How many, and how much they take together."""
    if not kept:
        return "nothing"
    number = "1 entry" if len(kept) == 1 else f"{len(kept):,} entries"
    return f"{number}, {format_bytes(sum(each.bytes for each in kept))}"


def _ago(moment: float) -> str:
    days = int((time.time() - moment) // DAY)
    if days < 1:
        return "within a day"
    return "1 day ago" if days == 1 else f"{days:,} days ago"
