"""Render a comparison of runs as a page: tables, accuracy against cost, sweep."""

from collections.abc import Callable, Sequence

from flowertune.analysis.compare import Comparison, differing_keys
from flowertune.config.fields import format_value
from flowertune.report.comparison import (
    NOT_COMPARABLE,
    notes,
    pair_lines,
    pair_table,
    pairs_note,
    percent,
    split_table,
)
from flowertune.report.figures.comparison import cost_figures, sweep_figure
from flowertune.report.html.page import Section, bullets, document, figure, paragraph, table, toggle

SplitTable = Callable[[Comparison, str], tuple[list[str], list[list[str]]]]


def page(
    title: str,
    groups: Sequence[Comparison],
    split_table: SplitTable = split_table,
    more_notes: Callable[[Comparison], list[str]] = lambda group: [],
    lead: Sequence[str] = (),
) -> str:
    """Render the page. `more_notes` returns additional notes for a group."""
    several = len(groups) > 1
    sections = []
    for number, group in enumerate(groups, start=1):
        sections += _sections(group, str(number) if several else "", split_table, more_notes)
    paragraphs = [*lead, *([f"{NOT_COMPARABLE.capitalize()}."] if several else [])]
    return document(title, "".join(map(paragraph, paragraphs)), sections)


def _sections(
    group: Comparison,
    number: str,
    split_table: SplitTable,
    more_notes: Callable[[Comparison], list[str]],
) -> list[Section]:
    body = paragraph(group.protocol_text)
    for split in reversed(group.splits):
        header, rows = split_table(group, split)
        caption = f"{split}, {group.n_images(split):,} photos; in per cent"
        body += table(header, rows, caption, range(2, len(header)))
    body += bullets([*notes(group), *more_notes(group)], "note")
    parts = [("result", "Result", body)]
    if len(group.rows) > 1:
        parts.append(
            ("cost", "What accuracy costs", "".join(figure(*each) for each in cost_figures(group)))
        )
    figure_of_sweep = sweep_figure(group)
    if figure_of_sweep is not None:
        parts.append(("sweep", "Sweep", figure(*figure_of_sweep)))
    if group.pairs:
        header, rows = pair_table(group.pairs)
        summary = bullets(pair_lines(group))
        pairs = table(header, rows, "all pairs; differences in points", range(2, len(header)))
        body = summary + paragraph(pairs_note(group), "note") + toggle("All pairs", pairs)
        parts.append(("pairs", "On the same photos", body))
    parts.append(("runs", "Runs", _runs(group)))
    return [Section(f"{name}{number}", f"{title} {number}".strip(), b) for name, title, b in parts]


def _runs(group: Comparison) -> str:
    """Render a table of all runs, and the keys that differ between them."""
    header = ["run", "method", "seed", *(f"{split} top-1" for split in group.splits), "best epoch",
              "minutes", "device"]  # fmt: skip
    runs = [run for row in group.rows for run in row.runs]
    rows = [
        [
            run.results["run"], run.results["method"], str(run.results["seed"]),
            *(percent(run.results["splits"][split]["top1"]) for split in group.splits),
            str(run.results["best_epoch"] or ""), f"{run.results['seconds'] / 60:.1f}",
            run.results["device"],
        ]
        for run in runs
    ]  # fmt: skip
    body = table(header, rows, "every run; accuracies in per cent", range(2, len(header) - 1))
    keys = differing_keys(runs)
    if keys:
        settings = [[key, *(format_value(row.runs[0].values.get(key)) for row in group.rows)]
                    for key in keys]  # fmt: skip
        titles = ["key", *(row.label for row in group.rows)]
        body += toggle("Settings that differ", table(titles, settings, "null: has no such key", ()))
    return body
