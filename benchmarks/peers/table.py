"""Render medians, minima, maxima and ratios of the runs as a Markdown table."""

import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

OURS = "flowertune"
Run = dict[str, Any]
Column = tuple[str, str, str, bool]
Row = dict[str, dict[str, float]]  # by column: median, least, most, optional ratio
# key of a run, heading, format, whether it has a ratio
COLUMNS: tuple[Column, ...] = (
    ("seconds", "training, s", "{:.1f}", True),
    ("images_per_second", "images/s", "{:.1f}", False),
    ("images_per_second_last_epoch", "images/s, last epoch", "{:.1f}", True),
    ("process_seconds", "whole process, s", "{:.1f}", True),
    ("memory_gb", "memory, GB", "{:.2f}", True),
    ("gpu_gb", "GPU memory, GB", "{:.2f}", True),
    ("trainable_parameters", "trainable parameters", "{:,.0f}", False),
    ("loss", "last training loss", "{:.3f}", False),
)


def spreads(runs: Sequence[Run], columns: Sequence[Column]) -> dict[str, Row]:
    """Median, least and most by name and column. A key with _gb reads the run's _bytes."""
    found: dict[str, Row] = {}
    for name in dict.fromkeys(run["name"] for run in runs):
        found[name] = {}
        for key, *_ in columns:
            values = [_value(run, key) for run in runs if run["name"] == name]
            found[name][key] = {
                "median": statistics.median(values),
                "least": min(values),
                "most": max(values),
            }
    return found


def summary(runs: Sequence[Run]) -> dict[str, Row]:
    """Spreads, with ratios in the columns that have them.

    A ratio is flowertune's median divided by the peer's: below 1, flowertune took less.
    """
    found = spreads(runs, COLUMNS)
    for columns in found.values():
        for key, _, _, with_ratio in COLUMNS:
            if with_ratio and OURS in found and columns[key]["median"]:
                ours = found[OURS][key]["median"]
                columns[key]["ratio"] = ours / columns[key]["median"]
    return found


def lines(runs: Sequence[Run]) -> list[str]:
    """Render the table, one row per name."""
    return markdown(summary(runs), COLUMNS, "library", "ratio", {OURS})


def markdown(
    rows: Mapping[str, Row],
    columns: Sequence[Column],
    first: str,
    ratio_heading: str,
    without_ratio: Collection[str],
) -> list[str]:
    """Render one row per name, without columns of zeros.

    first: heading of the names. without_ratio: names that the others are compared with.
    """
    shown = [column for column in columns if any(row[column[0]]["most"] for row in rows.values())]
    heads = [first]
    for _, heading, _, with_ratio in shown:
        heads += [heading, ratio_heading] if with_ratio else [heading]
    table = [heads, ["---"] * len(heads)]
    for name, row in rows.items():
        cells = [name]
        for key, _, form, with_ratio in shown:
            median, least, most = (form.format(row[key][of]) for of in ("median", "least", "most"))
            cells.append(median if least == most else f"{median} ({least} to {most})")
            if with_ratio:
                ratio = row[key].get("ratio")
                cells.append("" if ratio is None or name in without_ratio else f"{ratio:.2f}")
        table.append(cells)
    return ["| " + " | ".join(cells) + " |" for cells in table]


def _value(run: Run, key: str) -> float:
    if key.endswith("_gb"):
        return float(run[key.replace("_gb", "_bytes")]) / 1e9
    return float(run[key])
