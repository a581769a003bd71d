"""Tabulate a comparison of runs for the console, Markdown and HTML.

Numbers are in per cent; a cell is text, and empty where there is nothing to say.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from flowertune.analysis.compare import (
    BASELINE_NAMES,
    METRICS,
    Comparison,
    Estimate,
    PairComparison,
    Setting,
    best_first,
)
from flowertune.report.console.run import ConsoleReporter

MARK = " *"  # below the linear probe
NOT_COMPARABLE = "not the same backbone or photos: numbers of different tables do not compare"


@dataclass(frozen=True)
class Line:
    """Table row of a group: a setting, or a baseline of its runs.

    `model`: by its name in the config. `estimates`: (split, metric) -> value. `row` is None for a
    baseline.
    """

    label: str
    model: str
    seeds_label: str
    estimates: dict[tuple[str, str], Estimate]
    trainable_parameters: int
    row: Setting | None

    @property
    def minutes(self) -> str:
        return "" if self.row is None else f"{self.row.minutes:.1f}"


def lines(group: Comparison) -> list[Line]:
    """Table rows of a group: baselines that are no settings themselves, then the settings.

    Where not all rows have the same one, as its own settings or the device differ, each is named.
    """
    result = []
    models = {row.runs[0].results["model"] for row in group.rows}
    for key, name in BASELINE_NAMES.items():
        baselines = [(row.label, row.runs[0].results["baselines"][key]) for row in group.rows]
        distinct = {json.dumps(each): (label, each) for label, each in reversed(baselines) if each}
        for label, baseline in reversed(distinct.values()):
            if key not in models:
                title = name if len(distinct) == 1 else f"{name} beside {label}"
                result.append(_baseline(title, key, baseline, group.splits))
    for row in group.rows:
        estimates = {(s, m): row.estimate(s, m) for s in group.splits for m in METRICS}
        label = row.label + (MARK if row.stats.is_below_probe else "")
        model = row.runs[0].results["model"]
        result.append(Line(label, model, row.seeds_label, estimates, row.trainable_parameters, row))
    return result


def _baseline(name: str, model: str, results: dict[str, Any], splits: Sequence[str]) -> Line:
    estimates = {}
    for split in splits:
        metrics = results["splits"][split]
        low, high = metrics["top1_interval"]
        estimates[split, "top1"] = Estimate(metrics["top1"], None, (low, high))
        estimates[split, "mean_per_class"] = Estimate(metrics["mean_per_class"], None, None)
    return Line(name, model, "1, any seed", estimates, results["trainable_parameters"], None)


def notes(group: Comparison) -> list[str]:
    """Notes that explain the tables of a group."""
    result = [
        "mean ± standard deviation over seeds [95 % interval of the mean: Student's t]; of a "
        "single run its value [95 % Wilson interval]",
        "the sampling error of the photos comes on top of the spread over seeds: about ± "
        + " and ".join(f"{half:.1f} points on {split}" for split, half in _sampling(group)),
    ]
    if any(row.stats.is_below_probe for row in group.rows):
        result.append(f"{MARK.strip()} below the linear probe of the same backbone on "
                     f"{group.reported_split}")  # fmt: skip
    devices = {run.results["device"] for row in group.rows for run in row.runs}
    result.append(f"minutes: of training and validation, a run, on {', '.join(sorted(devices))}")
    return result


def _sampling(group: Comparison) -> list[tuple[str, float]]:
    results = group.rows[0].runs[0].results["splits"]
    intervals = [(split, results[split]["top1_interval"]) for split in group.splits]
    return [(split, 50 * (high - low)) for split, (low, high) in intervals]


def split_table(group: Comparison, split: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one split."""
    header = ["method", "runs"]
    for title in METRICS.values():
        header += [title, "±", "95 % interval"]
    rows = []
    for line in lines(group):
        row = [line.label, line.seeds_label]
        for metric in METRICS:
            row += estimate_cells(line.estimates[split, metric])
        rows.append([*row, f"{line.trainable_parameters:,}", line.minutes])
    return [*header, "trained parameters", "minutes"], rows


def estimate_cells(estimate: Estimate) -> list[str]:
    """Format mean, standard deviation and interval as cells."""
    std, interval = estimate.std, estimate.interval
    return [
        percent(estimate.mean),
        "" if std is None else percent(std),
        "" if interval is None else f"{percent(interval[0])} to {percent(interval[1])}",
    ]


def pair_table(pairs: Sequence[PairComparison]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the pairwise tests."""
    header = [
        "first", "second", "second minus first", "95 % interval, seed by seed",
        "right by first alone", "by second alone", "McNemar's p, seed by seed",
    ]  # fmt: skip
    rows = []
    for pair in pairs:
        tests = pair.tests.values()
        intervals = [f"{signed(t.difference.low)} to {signed(t.difference.high)}" for t in tests]
        rows.append([
            pair.first.label, pair.second.label, signed(pair.difference), ", ".join(intervals),
            ", ".join(str(test.only_first) for test in tests),
            ", ".join(str(test.only_second) for test in tests),
            ", ".join(probability(test.p) for test in tests),
        ])  # fmt: skip
    return header, rows


def pairs_of_best(group: Comparison) -> list[PairComparison]:
    """Pairs of the best setting on val with every other; none without a val split."""
    if "val" not in group.splits:
        return []
    best = best_first(group).rows[0]
    return [pair for pair in group.pairs if best in (pair.first, pair.second)]


def pairs_note(group: Comparison) -> str:
    """Explain how to read the p values of all pairs."""
    n_tests = sum(len(pair.tests) for pair in group.pairs)
    return (
        f"McNemar's exact test on the {group.n_images(group.reported_split):,} photos of "
        f"{group.reported_split}. Of {n_tests} tests at 5 %, about {max(round(n_tests / 20), 1)} "
        f"would find a difference where there is none; below {0.05 / max(n_tests, 1):.2g} none "
        "would (Bonferroni)."
    )


def show(console: ConsoleReporter, groups: Sequence[Comparison]) -> None:
    """Print the tables of each group, and its best setting against the others."""
    if len(groups) > 1:
        console.say(NOT_COMPARABLE)
    for group in groups:
        console.say(group.protocol_text)
        for split in group.splits:
            console.console.print(_console_table(group, split))
            console.say("")
        for note in notes(group):
            console.say(note)
        for line in pair_lines(group):
            console.say(line)


def pair_lines(group: Comparison) -> list[str]:
    """Describe the best setting on val against each other one, a line each."""
    result = []
    for pair in pairs_of_best(group):
        best = best_first(group).rows[0]
        other, sign = (pair.second, -1) if pair.first is best else (pair.first, 1)
        p_values = ", ".join(probability(test.p) for test in pair.tests.values())
        result.append(
            f"{best.label} (best on val) beside {other.label}, on the same photos of "
            f"{group.reported_split}: {signed(sign * pair.difference)} points, McNemar's p "
            f"{p_values}" + (" (each seed)" if len(pair.tests) > 1 else "")
        )
    return result


def _console_table(group: Comparison, split: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(f"{split}\n{group.n_images(split):,} photos", min_width=12, overflow="fold")
    for title in ("top-1\n[dim]95 % interval[/dim]", "mean\nper class", "runs",
                  "trained\nparameters", "minutes"):  # fmt: skip
        table.add_column(title, justify="right", no_wrap=True)
    for line in lines(group):
        top1, per_class = (line.estimates[split, metric] for metric in METRICS)
        table.add_row(
            Text(line.label, "bold" if line.row else ""),
            Text(format_estimate(top1)),
            percent(per_class.mean),
            line.seeds_label,
            f"{line.trainable_parameters:,}",
            line.minutes,
        )
    return table


def format_estimate(estimate: Estimate) -> str:
    """Format an estimate: 91.23 ± 0.31 [90.46, 92.00]"""
    std, interval = estimate.std, estimate.interval
    return (
        percent(estimate.mean)
        + ("" if std is None else f" ± {percent(std)}")
        + ("" if interval is None else f" [{percent(interval[0])}, {percent(interval[1])}]")
    )


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table; only its first column is text."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "".join(f"| {' | '.join(row)} |\n" for row in (escaped[0], rule, *escaped[1:]))


def percent(share: float) -> str:
    """Format a fraction as a percentage with two decimals, without the sign."""
    return f"{100 * share:.2f}"


def signed(share: float) -> str:
    """Format a difference of fractions in percentage points, with its sign."""
    return f"{100 * share + 0.0:+.2f}"  # no -0.00


def probability(p: float) -> str:
    """Format a p value."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"
