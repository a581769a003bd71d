"""Print the output of `flowertune evaluate`."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from flowertune.errors import printable
from flowertune.report.console.run import ConsoleReporter
from flowertune.report.console.table import accuracy_cells, accuracy_titles, new_table

SHOWN = 5  # classes per list; --json has all


def show(console: ConsoleReporter, results: Mapping[str, Any]) -> None:
    """Print a row per split, then what the metrics leave out."""
    console.say(f"{results['method']}: {results['backbone']} {results['tag']}")
    console.say(printable(results["protocol"]))
    table = new_table("images", numbers=[*accuracy_titles(), "top-5", "loss", "ECE"])
    for split, metrics in results["splits"].items():
        other_cells = [f"{metrics['top5']:.2%}", f"{metrics['loss']:.4f}", f"{metrics['ece']:.2%}"]
        name = Text(f"{split} {metrics['n']:,}", "bold")
        table.add_row(name, *accuracy_cells(metrics), *other_cells)
    console.console.print(table)
    for split, metrics in results["splits"].items():
        if metrics["missing"]:
            console.say(f"{split}: no images of {_abbreviate(metrics['missing'])}")
        if metrics["unknown"]:
            counts = [f"{name} ({count:,})" for name, count in metrics["unknown"].items()]
            total = sum(metrics["unknown"].values())
            images = "images" if total > 1 else "image"
            reason = f"left out; classes unknown to the run: {_abbreviate(counts)}"
            console.say(f"{split}: {total:,} {images} {reason}")
        if metrics["trained_on"]:
            console.say(f"{split}: training used {metrics['trained_on']:,} of these images")
    console.say(f"{results['device']} {results['precision']}")


def _abbreviate(names: Sequence[str]) -> str:
    listed = ", ".join(printable(name) for name in names[:SHOWN])
    return listed if len(names) <= SHOWN else f"{listed} and {len(names) - SHOWN:,} more"
