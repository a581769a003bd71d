"""Render a comparison of runs as a page."""

from collections.abc import Callable, Sequence

from flowertune.analysis.compare import Comparison, differing_keys
from flowertune.analysis.settings import protocol_text
from flowertune.config.fields import format_value
from flowertune.report.comparison import notes, pair_lines, pair_table, pairs_note, split_table
from flowertune.report.figures.comparison import cost_figures, sweep_figure
from flowertune.report.html.page import render
from flowertune.report.results_table import NOT_COMPARABLE, TextTable, percent


def page(
    title: str,
    groups: Sequence[Comparison],
    split_table: Callable[[Comparison, str], TextTable] = split_table,
    more_notes: Callable[[Comparison], list[str]] = lambda group: [],
    lead: Sequence[str] = (),
) -> str:
    """Render the page. `more_notes` returns additional notes for a group."""
    lead = [*lead, *([f"{NOT_COMPARABLE.capitalize()}."] if len(groups) > 1 else [])]
    contents = [
        {
            "protocol": protocol_text(group.settings[0].results[0]),
            "tables": [
                (*split_table(group, s), f"{s}, {group.n_images(s):,} images; accuracies in %")
                for s in reversed(group.splits)
            ],
            "notes": [*notes(group), *more_notes(group)],
            "cost_figures": cost_figures(group) if len(group.settings) > 1 else [],
            "sweep_figure": sweep_figure(group),
            "pairs": pair_table(group.pairs) if group.pairs else None,
            "pair_lines": pair_lines(group),
            "pairs_note": pairs_note(group),
            "runs": _run_table(group),
            "differing": _differing_table(group),
        }
        for group in groups
    ]
    return render("comparison.html.jinja", title, lead=lead, groups=contents)


def _differing_table(group: Comparison) -> TextTable:
    rows = []
    for key in differing_keys(group.runs):
        rows.append([key, *(format_value(s.runs[0].values.get(key)) for s in group.settings)])
    return ["key", *(setting.label for setting in group.settings)], rows


def _run_table(group: Comparison) -> TextTable:
    top1 = [f"{split} top-1" for split in group.splits]
    header = ["run", "method", "seed", *top1, "best epoch", "minutes", "device"]
    rows = []
    for results in (run.results for run in group.runs):
        rows.append([
            results["run"], results["method"], str(results["seed"]),
            *(percent(results["splits"][split]["top1"]) for split in group.splits),
            str(results["best_epoch"] or ""), f"{results['seconds'] / 60:.1f}", results["device"],
        ])  # fmt: skip
    return header, rows
