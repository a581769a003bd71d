"""Print the output of `flowertune data cache`."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from flowertune.data.cache.listing import CacheEntry
from flowertune.errors import printable
from flowertune.files import format_bytes
from flowertune.report.console.run import ConsoleReporter
from flowertune.report.console.table import new_table

DAY = 86_400  # seconds


def show(console: ConsoleReporter, entries: Sequence[CacheEntry], root: Path) -> None:
    """Print a row for each entry, then the total and the folder."""
    table = new_table("kind", "of", numbers=["size", "last used"])
    table.columns[0].min_width, table.columns[1].ratio = None, 1
    for entry in entries:
        source = Text(printable(entry.description))
        table.add_row(entry.kind, source, format_bytes(entry.bytes), _ago(entry.last_used))
    if entries:
        console.console.print(table)
        console.say("")
    console.say(f"{total(entries)} in {printable(str(root))}")


def total(entries: Sequence[CacheEntry]) -> str:
    """Format the number of entries and their total size."""
    if not entries:
        return "nothing"
    number = "1 entry" if len(entries) == 1 else f"{len(entries):,} entries"
    return f"{number}, {format_bytes(sum(entry.bytes for entry in entries))}"


def _ago(timestamp: float) -> str:
    days = int((time.time() - timestamp) // DAY)
    if days < 1:
        return "within a day"
    return "1 day ago" if days == 1 else f"{days:,} days ago"
