"""Tabulate a sweep: CSVs of its jobs and settings, and a console table."""

import re
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from flowertune import files
from flowertune.analysis.settings import (
    BASELINE_NAMES,
    METRICS,
    TOP1,
    Job,
    Setting,
    group_settings,
    job_rows,
    protocol_text,
    setting_rows,
)
from flowertune.analysis.statistics import estimate
from flowertune.report.console.run import ConsoleReporter
from flowertune.report.console.table import new_table
from flowertune.report.results_table import (
    BELOW_PROBE,
    MARK,
    NOT_COMPARABLE,
    percent,
    sampling_error,
)
from flowertune.runs.directory import to_csv


def write(folder: Path, jobs: Sequence[Job], swept: Sequence[str]) -> None:
    """Write sweep.csv and summary.csv."""
    files.write_text(folder / "sweep.csv", to_csv(*job_rows(jobs, swept)))
    groups = group_settings(jobs, swept)
    files.write_text(folder / "summary.csv", to_csv(*setting_rows(groups, swept)))


def show(console: ConsoleReporter, folder: Path, jobs: Sequence[Job], swept: Sequence[str]) -> None:
    """Print a table per backbone and protocol, the unfinished jobs and the path of sweep.csv."""
    console.say(f"\nsweep: {progress_text(jobs)}")
    groups = group_settings(jobs, swept)
    if len(groups) > 1:
        console.say(NOT_COMPARABLE)
    for group in groups:
        first = group[0]
        console.say(protocol_text(first.results[0]))
        order = "best top-1 on val first" if "val" in first.splits else "no val split: not ranked"
        several = any(len(setting.results) > 1 for setting in group)
        console.say(order + ("; mean ± std over seeds" if several else ""))
        console.console.print(_table(group, "method" in swept))
        if any(setting.is_below_probe for setting in group):
            console.say(BELOW_PROBE.format(first.reported_split))
        console.say(
            f"sampling error of the images (95%), not included: about ± {sampling_error(first)}"
        )
    for line in unfinished(jobs, swept):
        console.say(line)
    console.say(str(folder / "sweep.csv"))


def progress_text(jobs: Sequence[Job]) -> str:
    """Format the number of finished runs."""
    n_finished = sum(job.state == "finished" for job in jobs)
    return f"{n_finished} of {len(jobs)} runs finished"


def unfinished(jobs: Sequence[Job], swept: Sequence[str]) -> list[str]:
    """Describe each unfinished job with its reason."""
    return [
        f"job {job.number} ({label(job, swept)}): {job.state}" + (f": {job.why}" if job.why else "")
        for job in jobs
        if job.state != "finished"
    ]


def label(job: Job, swept: Sequence[str]) -> str:
    """Format the swept values of a job as typed."""
    return " ".join(f"{key}={job.words[key]}" for key in swept) or job.run


def format_duration(seconds: float) -> str:
    """Format seconds as minutes or hours."""
    minutes = round(seconds / 60)
    if minutes == 0:
        return "less than a minute"
    if minutes < 90:
        return f"{minutes} minute" + ("s" if minutes > 1 else "")
    return f"{minutes / 60:.1f} hours"


def _table(group: Sequence[Setting], with_method: bool) -> Table:
    first = group[0]
    keys = [key for key in first.values if key != "method" or with_method] or ["method"]
    short = [key.rpartition(".")[2] for key in keys]
    titles = [key if short.count(last) > 1 else last for key, last in zip(keys, short, strict=True)]
    judged = (first.reported_split, TOP1)
    columns = {}  # (split, metric) -> title: top-1 of each split, the others of the last only
    for split in first.splits:
        n_images = first.results[0]["splits"][split]["n"]
        columns[split, TOP1] = f"{split} {METRICS[TOP1]}\n[dim]{n_images:,} images[/dim]"
    for metric, title in METRICS.items():
        columns.setdefault((judged[0], metric), f"{judged[0]} " + title.replace(" ", "\n", 1))
    numbers = ["seeds", *columns.values(), "trainable\nparameters"]
    table = new_table(*map(Text, titles), numbers=numbers)

    blank = " " * len(MARK) if any(setting.is_below_probe for setting in group) else ""
    for setting in group:
        finished = len(setting.results)
        marks = {judged: MARK if setting.is_below_probe else blank}
        table.add_row(
            *(Text(_shorten_number(setting.values[key]), "bold") for key in keys),
            str(finished) if finished == setting.n_jobs else f"{finished} of {setting.n_jobs}",
            *(_cell(setting, *each) + marks.get(each, "") for each in columns),
            f"{setting.trainable_parameters:,}",
        )
    for baseline, name in BASELINE_NAMES.items():
        if all(setting.metrics(first.reported_split, baseline) for setting in group):
            cells = []
            for split, metric in columns:
                of_all = [setting.metrics(split, baseline) for setting in group]
                cells.append(_format_range([estimate(each, metric).mean for each in of_all]))
            cells[list(columns).index(judged)] += blank
            parameters = first.results[0]["baselines"][baseline]["trainable_parameters"]
            table.add_row(name, *[""] * len(keys), *cells, f"{parameters:,}")
    return table


def _format_range(accuracies: Sequence[float]) -> str:
    least, most = f"{min(accuracies):.2%}", f"{max(accuracies):.2%}"
    return most if least == most else f"{least}\nto {most}"


def _cell(setting: Setting, split: str, metric: str) -> str:
    over_seeds = setting.estimate(split, metric)
    std = over_seeds.std if metric == TOP1 else None
    return f"{over_seeds.mean:.2%}" + ("" if std is None else f" ± {percent(std)}")


def _shorten_number(value: str) -> str:
    """Shorten a sampled number of 17 digits to 4."""
    return f"{float(value):.4g}" if re.fullmatch(r"\d+\.\d{5,}(e-\d+)?", value) else value
