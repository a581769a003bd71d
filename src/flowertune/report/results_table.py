"""Format accuracies, in %, and tables of results as text."""

from collections.abc import Sequence

from flowertune.analysis.results_table import Row
from flowertune.analysis.settings import METRICS, Setting
from flowertune.analysis.statistics import Estimate

TextTable = tuple[list[str], list[list[str]]]  # header and rows

MARK = " *"  # below the linear probe
BELOW_PROBE = f"{MARK.strip()} below the linear probe of the same backbone on {{}}"
NOT_COMPARABLE = "the runs differ in backbone, images or protocol; do not compare across tables"


def single_run_table(rows: Sequence[Row], decimals: int = 2) -> TextTable:
    """Header and rows of one run and its baselines, with the intervals there are."""
    header, columns = [""], [[row.name for row in rows]]
    for metric, title in METRICS.items():
        estimates = [row.estimate(metric) for row in rows]
        header.append(title)
        columns.append([percent(each.mean) for each in estimates])
        if any(each.interval for each in estimates):
            header.append("95% interval")
            columns.append([format_interval(each, decimals) for each in estimates])
    return header, list(map(list, zip(*columns, strict=True)))


def format_interval(estimate: Estimate, decimals: int = 2) -> str:
    """Format an interval: 90.46 to 92.00; empty if there is none."""
    return " to ".join(f"{100 * end:.{decimals}f}" for end in estimate.interval or ())


def format_estimate(estimate: Estimate) -> str:
    """Format an estimate: 91.23 ± 0.31 [90.46, 92.00]"""
    std = "" if estimate.std is None else f" ± {percent(estimate.std)}"
    interval = ", ".join(map(percent, estimate.interval or ()))
    return percent(estimate.mean) + std + (f" [{interval}]" if interval else "")


def sampling_error(setting: Setting) -> str:
    """Format half the width of top-1's interval on each split."""
    intervals = [(s, setting.results[0]["splits"][s]["top1_interval"]) for s in setting.splits]
    return " and ".join(
        f"{50 * (high - low):.1f} points on {split}" for split, (low, high) in intervals
    )


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table; all columns but the first are right-aligned."""
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
