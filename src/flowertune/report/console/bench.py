"""Print the results of a benchmark."""

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from flowertune.report.console.run import ConsoleReporter
from flowertune.report.console.table import new_table

TIMINGS = {
    "train_step": "training step",
    "train_step_with_data": "training step with data",
    "validation": "validation",
    "cache": "cache building",
    "imports": "imports only",
    "start_up": "start to first step",
}


def show(console: ConsoleReporter, results: Mapping[str, Any]) -> None:
    """Print the timings, throughput and memory, and what each timing covers."""
    console.say(
        f"{results['method']}: {results['backbone']} {results['tag']}, "
        f"{results['trainable_parameters']:,} trainable parameters"
    )
    console.say(
        f"batch size {results['batch_size']}, {results['accumulation']} per step; "
        f"{results['device']} {results['precision']}, {results['threads']} threads, "
        f"torch {results['torch']}"
    )
    table = new_table("", numbers=["median", "min", "max", "calls", "images/s"])
    for name, title in TIMINGS.items():
        timing = results[name]
        seconds = [_seconds(timing["seconds"][key]) for key in ("median", "least", "most")]
        rate = timing.get("photos_per_second")  # not for a start
        throughput = "" if rate is None else f"{rate:,.{1 if rate < 10 else 0}f}"
        table.add_row(Text(title), *seconds, f"{timing['calls']}", throughput)
    console.console.print(table)
    console.say("")
    arithmetic = results["arithmetic"]
    console.say(
        f"{_amount(arithmetic['operations'])}FLOP per step, "
        f"{_amount(arithmetic['per_second'])}FLOP/s: "
        f"{arithmetic['share_of_matrix_product']:.1%} of a large matrix product "
        f"({_amount(arithmetic['matrix_product_per_second'])}FLOP/s)"
    )
    if results["peak_memory"] is not None:
        memory = results["peak_memory"]
        console.say(f"peak memory of training: {memory['bytes'] / 2**20:,.0f} MiB, {memory['of']}")
    console.say("")
    for name, title in TIMINGS.items():
        console.say(f"{title}: {results[name]['holds']}")


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"


def _amount(value: float) -> str:
    """Format three digits with the prefix of a unit: 1.23 T."""
    for name, unit in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= unit:
            return f"{value / unit:,.3g} {name}"
    return f"{value:,.0f} "
