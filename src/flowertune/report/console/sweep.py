"""Print the table of a sweep: settings, best on val first, and unfinished jobs."""

import re
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from flowertune.analysis.compare import BASELINE_NAMES
from flowertune.analysis.settings import Job, SettingStats, group_settings
from flowertune.report.console.run import ConsoleReporter

_MARK = " *"  # below the linear probe


def show(console: ConsoleReporter, folder: Path, jobs: Sequence[Job], swept: Sequence[str]) -> None:
    """Print a table for each backbone and protocol, unfinished jobs, and the sweep's path."""
    n_finished = sum(job.state == "finished" for job in jobs)
    console.say(f"\nsweep: {n_finished} of {len(jobs)} runs finished")
    groups = group_settings(jobs, swept)
    if len(groups) > 1:
        console.say("not the same backbone or photos: numbers of different tables do not compare")
    for group in groups:
        _show_group(console, group, "method" in swept)
    for job in jobs:
        if job.state != "finished":
            why = f": {job.why}" if job.why else ""
            console.say(f"job {job.number} ({label(job, swept)}): {job.state}{why}")
    console.say(str(folder / "sweep.csv"))


def label(job: Job, swept: Sequence[str]) -> str:
    """Format the swept values of a job as typed."""
    return " ".join(f"{key}={job.words[key]}" for key in swept) or job.run


def format_duration(seconds: float) -> str:
    """Format seconds as minutes or hours."""
    minutes = max(round(seconds / 60), 1)
    if minutes < 90:
        return f"{minutes} minute" + ("s" if minutes > 1 else "")
    return f"{minutes / 60:.1f} hours"


def _show_group(console: ConsoleReporter, group: Sequence[SettingStats], with_method: bool) -> None:
    first = group[0].results[0]
    console.say(f"{first['backbone']} {first['tag']}; {first['protocol']}")
    order = "best top-1 on val first" if "val" in first["splits"] else "no val: in no order"
    several = any(setting.std for setting in group)
    console.say(order + ("; mean ± standard deviation over seeds" if several else ""))
    console.console.print(_table(group, with_method))
    if any(setting.is_below_probe for setting in group):
        split = group[0].reported_split
        console.say(f"{_MARK.strip()} below the linear probe of the same backbone on {split}")
    halves = []
    for split in _splits(group):
        low, high = first["splits"][split]["top1_interval"]
        halves.append(f"{100 * (high - low) / 2:.1f} points on {split}")
    console.say(f"sampling error (95 %) comes on top: about ± {' and '.join(halves)}")


def _splits(group: Sequence[SettingStats]) -> list[str]:
    return [split for split in ("val", "test") if split in group[0].results[0]["splits"]]


def _table(group: Sequence[SettingStats], with_method: bool) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    keys = [key for key in group[0].values if key != "method" or with_method] or ["method"]
    splits = _splits(group)
    short = [key.rpartition(".")[2] for key in keys]
    titles = [key if short.count(last) > 1 else last for key, last in zip(keys, short, strict=True)]
    table.add_column(Text(titles[0]), min_width=12, overflow="fold")
    for title in titles[1:]:
        table.add_column(Text(title), overflow="fold")
    counts = ["seeds"]
    for split in splits:
        n_images = group[0].results[0]["splits"][split]["n"]
        counts.append(f"{split} top-1\n[dim]{n_images:,} photos[/dim]")
    for title in (*counts, f"{splits[-1]} mean\nper class", "trained\nparameters"):
        table.add_column(title, justify="right", no_wrap=True)

    reported_split = group[0].reported_split
    blank = " " * len(_MARK) if any(setting.is_below_probe for setting in group) else ""
    for setting in group:
        finished = len(setting.results)
        marks = {reported_split: _MARK if setting.is_below_probe else blank}
        table.add_row(
            *(Text(_shorten_number(setting.values[key]), "bold") for key in keys),
            str(finished) if finished == setting.jobs else f"{finished} of {setting.jobs}",
            *(_estimate(setting, f"{split}_top1") + marks.get(split, "") for split in splits),
            f"{setting.mean[f'{splits[-1]}_mean_per_class']:.2%}",
            f"{setting.results[0]['trainable_parameters']:,}",
        )
    for baseline, name in BASELINE_NAMES.items():
        if all(f"{baseline}_{reported_split}_top1" in setting.mean for setting in group):
            measures = [*(f"{split}_top1" for split in splits), f"{splits[-1]}_mean_per_class"]
            cells = [
                _format_range([setting.mean[f"{baseline}_{measure}"] for setting in group])
                for measure in measures
            ]
            cells[splits.index(reported_split)] += blank
            parameters = group[0].results[0]["baselines"][baseline]["trainable_parameters"]
            table.add_row(name, *[""] * len(keys), *cells, f"{parameters:,}")
    return table


def _format_range(accuracies: Sequence[float]) -> str:
    """Format one number if all settings share it, else the range."""
    least, most = f"{min(accuracies):.2%}", f"{max(accuracies):.2%}"
    return most if least == most else f"{least}\nto {most}"


def _estimate(setting: SettingStats, measure: str) -> str:
    std = setting.std.get(measure)
    return f"{setting.mean[measure]:.2%}" + ("" if std is None else f" ± {100 * std:.2f}")


def _shorten_number(value: str) -> str:
    """Shorten a number of 17 digits, as a search draws it, to four."""
    return f"{float(value):.4g}" if re.fullmatch(r"\d+\.\d{5,}(e-\d+)?", value) else value
