"""Tabulate a reproduction: results of all methods next to the published numbers."""

import math
from collections.abc import Sequence
from itertools import chain, product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from flowertune import files
from flowertune.analysis.compare import Comparison, compare_runs
from flowertune.analysis.published import DESCRIPTION, TOP1, applies, published_top1
from flowertune.analysis.settings import METRICS, Job, Setting, protocol_text
from flowertune.analysis.statistics import (
    Difference,
    difference_from_published,
    sampling_error,
    t_half_width,
)
from flowertune.metrics import EVALUATED_SPLITS
from flowertune.report import comparison
from flowertune.report.comparison import notes, pair_table, pairs_note, pairs_of_best, split_table
from flowertune.report.console.run import ConsoleReporter
from flowertune.report.results_table import NOT_COMPARABLE, TextTable, markdown, percent, signed
from flowertune.report.sweep import progress_text, unfinished
from flowertune.runs.directory import to_csv
from flowertune.runs.finished import read_finished_run

TITLE = "Results of all methods"


def write(folder: Path, jobs: Sequence[Job], swept: Sequence[str]) -> None:
    """Write reproduce.md and reproduce.csv; called after each job."""
    groups = _groups(jobs)
    document = _document(groups, progress_text(jobs), unfinished(jobs, swept))
    files.write_text(folder / "reproduce.md", document)
    files.write_text(folder / "reproduce.csv", to_csv(*_csv(groups)))


def show(console: ConsoleReporter, folder: Path, jobs: Sequence[Job], swept: Sequence[str]) -> None:
    """Print the tables and write reproduce.html; called at the end."""
    from flowertune.report.html.comparison import page as html_page  # imports matplotlib

    groups, progress, missing = _groups(jobs), progress_text(jobs), unfinished(jobs, swept)
    console.say(f"\nreproduce: {progress}")
    comparison.show(console, groups)
    for line in (*_reference_lines(groups), *missing):
        console.say(line)
    page = html_page(TITLE, groups, reference_table, reference_notes, [progress, *missing])
    files.write_text(folder / "reproduce.html", page)
    console.say(f"{folder / 'reproduce.md'}, reproduce.csv, reproduce.html")


def _groups(jobs: Sequence[Job]) -> list[Comparison]:
    finished = [job for job in jobs if job.state == "finished"]
    methods = list(dict.fromkeys(job.method for job in jobs))
    finished.sort(key=lambda job: methods.index(job.method))
    return compare_runs(read_finished_run(Path(job.run)) for job in finished)


def compare_to_reference(setting: Setting, split: str) -> tuple[float, Difference] | None:
    """Published top-1 and the difference from it; None if either is missing."""
    published = published_top1(setting.method, split, setting.runs[0].values)
    metrics = setting.metrics(split)
    if published is None or not metrics:
        return None
    top1 = [each["top1"] for each in metrics]
    return published, difference_from_published(top1, metrics[0]["n"], published)


def reference_table(group: Comparison, split: str) -> TextTable:
    """Add the reference's columns to `split_table`; empty where it has no number."""
    header, rows = split_table(group, split)
    header = [*header, "reference top-1", "difference", "95% interval", "interval contains 0"]
    for row, cells in zip(group.rows(split), rows, strict=True):
        compared = None if row.setting is None else compare_to_reference(row.setting, split)
        if compared is None:
            cells += [""] * 4
        else:
            published, ours = compared
            interval = f"{signed(ours.low)} to {signed(ours.high)}"
            holds = "yes" if ours.includes_zero else "no"
            cells += [percent(published), signed(ours.value), interval, holds]
    return header, rows


def reference_notes(group: Comparison) -> list[str]:
    """Write the notes on the reference: if and how it is compared, and the gap of VPT."""
    note = f"{DESCRIPTION}; their columns are empty for other runs"
    if applies(group.runs[0].values):
        note = (
            "reference: notebooks with ViT-B/32 openai, one run, seed 42; the interval of the "
            "difference covers flowertune's spread over seeds and the reference's sampling error, "
            "but not the reference's spread over seeds, which is unknown"
        )
    return [note, *_gap(group)]


def _gap(group: Comparison) -> list[str]:
    """Compare VPT's gap between val and test with the reference's unusual 5.65 points."""
    for setting in group.settings:
        if setting.method == "vpt" and setting.splits == list(EVALUATED_SPLITS):
            val, test = (setting.metrics(split) for split in EVALUATED_SPLITS)
            gaps = [a["top1"] - b["top1"] for a, b in zip(val, test, strict=True)]
            line = f"vpt, val minus test: {signed(mean(gaps))} points"
            if len(gaps) > 1:
                line += f", std {percent(stdev(gaps))}, {_interval(mean(gaps), t_half_width(gaps))}"
            if applies(setting.runs[0].values):
                published = TOP1["vpt"]
                errors = [sampling_error(top1, group.n_images(s)) for s, top1 in published.items()]
                gap, half = published["val"] - published["test"], math.hypot(*errors)
                line += f"; reference: {signed(gap)} points, {_interval(gap, half)}, sampling only"
            return [line]
    return []


def _interval(center: float, half_width: float) -> str:
    return f"95% interval {signed(center - half_width)} to {signed(center + half_width)}"


def _reference_lines(groups: Sequence[Comparison]) -> list[str]:
    result = []
    for group in groups:
        for setting, split in product(group.settings, group.splits):
            if compared := compare_to_reference(setting, split):
                published, ours = compared
                verdict = "contains" if ours.includes_zero else "does not contain"
                result.append(
                    f"{setting.label} on {split}: {signed(ours.value)} points from the reference's "
                    f"{percent(published)}; 95% interval {signed(ours.low)} to "
                    f"{signed(ours.high)} {verdict} 0"
                )
        result += reference_notes(group)
    return result


def _document(groups: Sequence[Comparison], progress: str, missing: Sequence[str]) -> str:
    parts = [f"# {TITLE}\n", f"{progress}; accuracies in %.\n"]
    if len(groups) > 1:
        parts.append(f"{NOT_COMPARABLE.capitalize()}.\n")
    for group in groups:
        parts.append(f"## {protocol_text(group.settings[0].results[0])}\n")
        for split in reversed(group.splits):
            parts.append(f"### {split}, {group.n_images(split):,} images\n")
            parts.append(markdown(*reference_table(group, split)))
        parts.append("".join(f"- {note}\n" for note in (*notes(group), *reference_notes(group))))
        if pairs := pairs_of_best(group):
            parts.append(f"### Best on val compared with the others, on {group.reported_split}\n")
            parts.append(markdown(*pair_table(pairs)))
            parts.append(f"{pairs_note(group)}\n")
    if missing:
        parts.append("## Unfinished runs\n")
        parts.append("".join(f"- {line}\n" for line in missing))
    return "\n".join(parts)


def _csv(groups: Sequence[Comparison]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows, one per method; accuracies in [0, 1]."""
    statistics = product(METRICS, ("mean", "std", "low", "high"))
    of_split = [
        "photos", *map("_".join, statistics), "reference", "difference", "difference_low",
        "difference_high", "interval_holds_reference",
    ]  # fmt: skip
    header = ["method", "seeds", "seed_matters", "trainable_parameters", "minutes"]
    header += map("_".join, product(EVALUATED_SPLITS, of_split))
    facts = ["backbone", "tag", "protocol", "device", "precision"]
    rows = []
    for setting in chain.from_iterable(group.settings for group in groups):
        seeds = " ".join(str(results["seed"]) for results in setting.results)
        cells = [setting.label, seeds, setting.runs[0].depends_on_seed]
        cells += [setting.trainable_parameters, setting.minutes]
        for split in EVALUATED_SPLITS:
            values = _csv_values(setting, split) if split in setting.splits else []
            cells += values + [None] * (len(of_split) - len(values))
        rows.append([*cells, *map(setting.results[0].get, facts)])
    return header + facts, rows


def _csv_values(setting: Setting, split: str) -> list[Any]:
    """Cells of a split, without those of the reference if it has no number."""
    values = [setting.metrics(split)[0]["n"]]
    for metric in METRICS:
        each = setting.estimate(split, metric)
        values += [each.mean, each.std, *(each.interval or (None, None))]
    if compared := compare_to_reference(setting, split):
        published, ours = compared
        values += [published, ours.value, ours.low, ours.high, ours.includes_zero]
    return values
